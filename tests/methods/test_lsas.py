"""LSAS: its formula, its networks on every attention network, recipes, published names, maps, mixing, cost, log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.in_memory import InMemoryImages
from attnbias.data.index import Index, Record
from attnbias.data.transforms.basic import ToNormalizedTensor
from attnbias.data.transforms.batched import BatchedTransform, draw
from attnbias.data.transforms.mixing import CutMix, Cutout, Mixup
from attnbias.methods.engine.display.overlay import inferno
from attnbias.methods.engine.display.panels import GAP, HEIGHT, LABEL, STRIP, draw_panels
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.cost import measure_cost
from attnbias.methods.engine.maps import grad_cam
from attnbias.methods.engine.recipe import override, parse
from attnbias.methods.engine.training.optim import apply_schedule, build_optimizer
from attnbias.methods.lsas.attention import channel_attention, class_activation_maps
from attnbias.methods.lsas.log import COLUMNS_TOP5, log_text
from attnbias.methods.lsas.method import METHOD, decay_rule
from attnbias.methods.lsas.model import ResNet, SubAttention, build_model
from attnbias.methods.lsas.recipe import LSASRecipe, imagenet_lr
from attnbias.weights.errors import WeightsError
from tests.helpers.command_line import attnbias

TINY = LSASRecipe(depth=11)  # one bottleneck a stage
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def tiny(**changes: object) -> ResNet:
    torch.manual_seed(0)
    return build_model(override(TINY, changes), 4).eval()


# The formula ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1, 2, 7])
def test_sub_attention_is_the_product_of_shifted_sigmoids(order: int) -> None:
    module = SubAttention(5, order)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    logits = torch.randn(3, 5, 1, 1)
    # Closed form: v_n = (w_n ... w_1) v_0 + nested biases.
    scale, shift, expected = 1.0, 0.0, logits.sigmoid()
    parameters = list(module.parameters())
    for w, b in zip(parameters[::2], parameters[1::2], strict=True):
        scale, shift = w * scale, w * shift + b
        expected = expected * (scale * logits + shift).sigmoid()
    torch.testing.assert_close(module(logits), expected)
    assert sum(p.numel() for p in parameters) == 2 * 5 * order


def test_a_higher_order_starts_with_a_weaker_branch() -> None:
    starts = [SubAttention(1, order)(torch.zeros(1, 1, 1, 1)).item() for order in range(4)]
    assert starts == sorted(starts, reverse=True)
    assert starts[:2] == pytest.approx([0.5, 0.5 / (1 + np.exp(0.5))])


# Networks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["se", "cbam", "eca", "srm"])
def test_order_0_of_each_attention_network_gates_by_the_plain_sigmoid(attention: str) -> None:
    model, plain = tiny(attention=attention, order=2), tiny(attention=attention, order=0)
    shared = {name: value for name, value in model.state_dict().items() if ".sub_attention." not in name}
    assert shared.keys() == plain.state_dict().keys()
    plain.load_state_dict(shared)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".sub_attention." in name:  # sigmoid(0 v + 20) = 1: the chain switched off
                parameter.fill_(20.0 if name.split(".")[-1].startswith("b") else 0.0)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x), plain(x))


@pytest.mark.parametrize("attention", ["se", "cbam", "eca", "srm"])
@pytest.mark.parametrize("network", [{"network": "imagenet", "depth": 18}, {"block": "basic", "depth": 8}])
def test_every_attention_network_learns_in_every_block(attention: str, network: dict[str, object]) -> None:
    model = build_model(LSASRecipe(**network, attention=attention, order=2, stages=(2, 3)), 3)
    model(torch.randn(2, 3, 33, 47)).square().sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()}
    assert not without
    assert {n.split(".")[0] for n, m in model.named_modules() if isinstance(m, SubAttention)} == {"layer2", "layer3"}


def test_no_attention_is_torchvisions_resnet() -> None:
    from torchvision.models import resnet18

    ours, theirs = build_model(LSASRecipe(network="imagenet", depth=18, attention="none"), 10), resnet18(num_classes=10)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_torchvisions_weights_start_all_but_attention_and_classifier() -> None:
    from torchvision.models import resnet18

    recipe = LSASRecipe(network="imagenet", depth=18, stages=(3, 4))
    model, theirs = build_model(recipe, 5), resnet18().state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    METHOD.load_backbone(model, recipe, theirs, Path("resnet18.pth"))
    for name, value in model.state_dict().items():
        fresh = ".attention." in name or name.startswith("fc.")
        assert torch.equal(value, before[name] if fresh else theirs[name]), name
    del theirs["layer3.0.conv1.weight"]
    with pytest.raises(WeightsError, match=r"layer3\.0\.conv1\.weight"):
        METHOD.load_backbone(model, recipe, theirs, Path("resnet18.pth"))


def test_narrow_basic_blocks_keep_a_hidden_unit() -> None:
    model = tiny(block="basic", depth=8, reduction=64, stages=(1,))
    assert model.get_parameter("layer1.0.attention.fc.0.weight").shape == (1, 16)


def test_the_small_network_has_stride_8() -> None:
    assert tiny(network="small", block="basic", depth=8).features(torch.randn(1, 3, 64, 64)).shape[2:] == (8, 8)


def test_zero_init_starts_every_branch_at_zero() -> None:
    model = tiny(zero_init_residual=True)
    assert all(not block.bn3.weight.any() for name in model.stage_names for block in model.get_submodule(name))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 28}, "9n \\+ 2: 20 and 29"),
        ({"block": "basic", "depth": 30}, "6n \\+ 2: 26 and 32"),
        ({"network": "imagenet", "depth": 20}, "18, 34, 50, 101, 152"),
        ({"stages": (4,)}, "from 1 to 3 of the cifar network"),
        ({"stages": (3, 3)}, "different stages"),
        ({"attention": "sse"}, "attention"),
    ],
)
def test_impossible_networks_are_refused_with_what_is_possible(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        override(TINY, changes)


# Recipes --------------------------------------------------------------------------------------------------------------


def test_the_readmes_runs_are_named_and_print_their_targets() -> None:
    targets = {name: named.paper["top1"] for name, named in METHOD.recipes.items() if named.paper}
    assert targets == {
        "cifar10": 95.01,
        "cifar10-senet": 94.57,
        "cifar100": 76.47,
        "cifar100-senet": 75.30,
        "stl10-original": 85.71,
        "stl10-original-senet": 83.81,
        "imagenet": 77.28,
        "imagenet-senet": 76.63,
    }


def test_the_name_of_a_recipe_does_not_decide_the_network() -> None:
    lsas, order_0 = (METHOD.recipes[name].recipe for name in ("cifar10", "cifar10-order0"))
    assert override(lsas, {"order": 0}) == order_0


def test_the_learning_rate_of_imagenet_is_written_out_and_honoured() -> None:
    recipe = METHOD.recipes["imagenet"].recipe
    assert recipe.lr == imagenet_lr(recipe.batch_size) == 0.1
    assert override(recipe, {"batch_size": 1024, "lr": 0.05}).lr == 0.05


def test_a_resumed_run_has_the_rates_of_an_unbroken_one() -> None:
    schedule = METHOD.schedule(METHOD.recipes["cifar10"].recipe, 391)
    assert [0.1 * schedule(391 * epoch)["lr"] for epoch in (100, 121, 122)] == pytest.approx([0.01, 0.01, 0.001])


def test_no_decay_by_each_rule() -> None:
    model = tiny(attention="srm", order=1)
    rules = {name: decay_rule(name, p.ndim) for name, p in model.named_parameters()}
    assert rules["layer3.0.attention.sub_attention.w"] == "sub_attention"
    assert {rules[n] for n in ("fc.bias", "bn1.bias")} == {"bias"}
    assert (rules["bn1.weight"], rules["fc.weight"], rules["conv1.weight"]) == ("bn", "fc", "conv")
    for rule in ("bias", "bn", "fc", "conv", "sub_attention"):
        recipe = override(TINY, {"attention": "srm", "no_decay": (rule,)})
        without, with_decay = METHOD.param_groups(model, recipe)
        assert (without["weight_decay"], with_decay["weight_decay"]) == (0, 1e-4)
        assert len(without["params"]) == list(rules.values()).count(rule)
    assert len(METHOD.param_groups(model, TINY)) == 1


@pytest.mark.parametrize("task", ["singlelabel", "multilabel"])
@pytest.mark.parametrize("name", ["demo", "demo-single-senet"])
def test_both_tasks_train(task: str, name: str) -> None:
    recipe = METHOD.recipes[name].recipe
    torch.manual_seed(0)
    model = METHOD.build_model(recipe, 4, task)
    optimizer = build_optimizer(METHOD.param_groups(model, recipe), recipe)
    schedule = METHOD.schedule(recipe, steps_per_epoch=1)
    labels = torch.arange(8) % 4
    images = torch.randn(8, 3, 64, 64) * 0.1 + labels[:, None, None, None]
    target = torch.nn.functional.one_hot(labels, 4).float() if task == "multilabel" else labels
    losses = []
    for step in range(10):
        apply_schedule(optimizer, schedule, step)
        terms = METHOD.loss(model, {"image": images, "target": target}, recipe, task)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(float(terms["loss"].detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_unknown_labels_are_out_of_the_loss() -> None:
    model, images = tiny(), torch.randn(2, 3, 32, 32)
    target = torch.tensor([[1.0, 0, -1, -1], [0, 1, -1, 0]])
    logits = model(images)
    METHOD.loss(lambda _: logits, {"image": images, "target": target}, TINY, "multilabel")["loss"].backward(
        inputs=[p for p in model.parameters() if p is model.fc.bias]
    )
    assert model.fc.bias.grad is not None
    assert model.fc.bias.grad[2] == 0
    assert (model.fc.bias.grad[[0, 1, 3]] != 0).all()


# Published names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"attention": kind, "order": 3, "stages": (1, 3)} for kind in ("se", "cbam", "eca", "srm")]
)
def test_weights_tell_their_network(changes: dict[str, object]) -> None:
    state = tiny(**changes).state_dict()
    assert METHOD.convert(state).keys() == state.keys()
    told = METHOD.infer(state)
    assert told.pop("num_classes") == 4
    assert override(LSASRecipe(), told) == override(TINY, changes)


# Where it looks -------------------------------------------------------------------------------------------------------


def test_grad_cam_of_a_stage_that_a_network_lacks_names_those_it_has() -> None:
    images, classes = torch.rand(1, 3, 32, 32), torch.tensor([0])
    assert METHOD.attention(tiny(), images, classes, kind="gradcam-layer3").shape[:2] == (1, 1)
    with pytest.raises(UsageError, match="has 3 stages; one of: gradcam-layer1, gradcam-layer2, gradcam-layer3"):
        METHOD.attention(tiny(), images, classes, kind="gradcam-layer4")


def test_cam_is_grad_cam_without_a_backward_pass() -> None:
    model, images, classes = tiny(), torch.randn(2, 3, 40, 32), torch.tensor([[3, 0], [1, 1]])
    by_gradient = grad_cam(model, images, classes, METHOD.explained_layer(model).module)
    torch.testing.assert_close(class_activation_maps(model, images, classes), by_gradient, atol=1e-6, rtol=1e-4)


def test_maps_have_the_grid_of_their_stage() -> None:
    model, images = tiny(), torch.randn(2, 3, 32, 32)
    for kind, size in {"cam": 8, "gradcam-layer1": 32, "gradcam-layer2": 16, "gradcam-layer3": 8}.items():
        assert METHOD.attention(model, images, kind=kind).shape == (2, 4, size, size)


def test_channel_attention_panels_hold_every_factor() -> None:
    model = tiny(attention="cbam", order=2, stages=(2, 3))
    panels = channel_attention(model, torch.randn(2, 3, 32, 32))
    assert [(panel.block, tuple(panel.factors.shape)) for panel in panels] == [
        ("layer2.0", (3, 2, 128)),
        ("layer3.0", (3, 2, 256)),
    ]
    torch.testing.assert_close(panels[0].attention, panels[0].factors.prod(0))
    shown = METHOD.panels(model, torch.randn(2, 3, 32, 32))
    assert list(shown["layer3.0"]) == ["attention", "sigmoid(v0)", "sigmoid(v1)", "sigmoid(v2)"]


def test_a_panel_shows_channels_in_order_and_how_their_values_spread() -> None:
    values = np.array([0, 1], dtype=np.float32).repeat(64)
    drawn = np.asarray(draw_panels({"layer3.0": {"attention": values, "sigmoid(v0)": 0 * values}}))
    rows = [GAP + place * (HEIGHT + GAP) + HEIGHT - 1 for place in (0, 1)]  # the lowest line of each
    strip, histogram = (slice(left, left + width) for left, width in ((LABEL + 2 * GAP, STRIP), (-GAP - 128, 128)))
    dark, bright = inferno()[[0, 255]]
    assert (drawn[rows[0], strip][: STRIP // 2] == dark).all()
    assert (drawn[rows[0], strip][STRIP // 2 :] == bright).all()
    assert (drawn[rows[1], strip] == dark).all()
    bars = [np.flatnonzero(drawn[row, histogram, 0] < 128) // (128 // 32) for row in rows]
    assert [set(found.tolist()) for found in bars] == [{0, 31}, {0}]


# Mixing ---------------------------------------------------------------------------------------------------------------


def batch(multilabel: bool = False) -> tuple[Tensor, Tensor]:
    images = torch.randn(6, 3, 20, 24)
    return images, torch.tensor([[1.0, 0, -1]] * 6) if multilabel else torch.arange(6) % 3


@pytest.mark.parametrize("mix", [Mixup(1.0, 3), CutMix(1.0, 3)])
def test_mixed_targets_are_shares_and_draws_are_the_callers(mix: Mixup | CutMix) -> None:
    images, targets = batch()
    first, second = (mix(images, targets, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    torch.testing.assert_close(first[1].sum(1), torch.ones(6))
    assert not torch.equal(first[0], images)


def test_unknown_labels_stay_unknown_in_a_mixture() -> None:
    images, targets = batch(multilabel=True)
    assert torch.equal(Mixup(1.0, 3)(images, targets, np.random.default_rng(0))[1], targets)


def test_cutmix_target_is_the_share_of_pixels() -> None:
    images, targets = torch.zeros(2, 3, 20, 24), torch.tensor([0, 1])
    images[1] = 1
    for seed in range(20):
        mixed, rows = CutMix(1.0, 2)(images, targets, np.random.default_rng(seed))
        torch.testing.assert_close(mixed[:, 0].mean((1, 2)), rows[:, 1])


def test_a_share_of_the_batches_is_cut_as_the_recipe_says() -> None:
    images, targets = batch()
    mix = METHOD.batch_transform(parse(LSASRecipe, {"cutmix": 1.0, "cutmix_probability": 0.25}), 3)
    assert mix is not None
    generator = np.random.default_rng(0)
    cut = [mix(images, targets, generator)[1] is not targets for _ in range(400)]
    assert 70 <= sum(cut) <= 130  # 100 expected, with a standard deviation of 8.7
    every, cutting = CutMix(1.0, 3), METHOD.batch_transform(LSASRecipe(cutmix=1.0), 3)
    draws = [mix(images, targets, np.random.default_rng(1))[0] for mix in (every, cutting)]
    assert torch.equal(*draws)


def test_cutout_blanks_one_square_for_the_batch() -> None:
    images, targets = batch()
    cut, same = Cutout(8)(images, targets, np.random.default_rng(0))
    assert same is targets
    blank = (cut == 0).all(1)  # (B, H, W)
    assert (blank == blank[0]).all()
    assert 16 <= int(blank[0].sum()) <= 64


# Batched augmentation -------------------------------------------------------------------------------------------------


def test_a_sample_is_augmented_alike_in_any_batch() -> None:
    transform = BatchedTransform(ToNormalizedTensor((0.5,) * 3, (0.5,) * 3), seed=3, size=12, padding=2, flip=True)
    images, samples = torch.randint(0, 256, (9, 3, 12, 12), dtype=torch.uint8), torch.arange(9) * 1000
    whole = transform(images, samples, epoch=4)
    parts = torch.cat([transform(images[i : i + 4], samples[i : i + 4], torch.tensor(4)) for i in (0, 4, 8)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, transform(images, samples, epoch=5))


def test_batched_crops_are_those_of_the_padded_image() -> None:
    image = torch.randint(1, 256, (1, 3, 8, 8), dtype=torch.uint8)
    padded = torch.nn.functional.pad(image, (2,) * 4)
    possible = [
        variant[..., top : top + 8, left : left + 8]
        for variant in (padded, padded.flip(-1))
        for top in range(5)
        for left in range(5)
    ]
    transform = BatchedTransform(ToNormalizedTensor((0.0,) * 3, (1.0,) * 3), size=8, padding=2, flip=True)
    results = transform(image.expand(400, -1, -1, -1), torch.arange(400), 0).mul(255).round().to(torch.uint8)
    found = {next(i for i, p in enumerate(possible) if torch.equal(p[0], result)) for result in results}
    assert len(found) == 50  # every crop, mirrored or not, and nothing else


def test_images_that_are_too_small_for_a_crop_are_named() -> None:
    transform = BatchedTransform(ToNormalizedTensor((0.0,) * 3, (1.0,) * 3), 0, 32, 4)
    with pytest.raises(
        DataError, match="images of 40 x 20 pixels are too small for crops of 32 x 32 with a border of 4"
    ):
        transform(torch.zeros(2, 3, 20, 40, dtype=torch.uint8), torch.arange(2), 0)


def test_draws_are_even_and_independent() -> None:
    samples = torch.arange(40000)
    counts = torch.bincount(draw(0, 0, samples, 0, 9), minlength=9)
    assert counts.min() > 0.93 * 40000 / 9
    pairs = torch.stack([draw(0, 0, samples, 0, 100), draw(0, 0, samples, 1, 100), draw(0, 1, samples, 0, 100)]).float()
    assert (torch.corrcoef(pairs) - torch.eye(3)).abs().max() < 0.03


def write_split(root: Path, sizes: list[tuple[int, int]]) -> Index:
    rng = np.random.default_rng(0)
    records = []
    for i, (width, height) in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / f"{i}.png")
        records.append(Record(f"{i}.png", i % 2))
    return Index("mini", "train", "singlelabel", ("a", "b"), root, tuple(records))


def in_memory(index: Index, recipe: LSASRecipe, train: bool) -> InMemoryImages:
    batched = METHOD.batched_transform(recipe, train)
    assert batched is not None
    return InMemoryImages(index, METHOD.transform(recipe, train), batched=batched)


def test_batches_in_memory_are_the_images_on_disk(tmp_path: Path) -> None:
    index = write_split(tmp_path, [(10, 8)] * 5)
    originals = in_memory(index, METHOD.recipes["cifar10"].recipe, train=False)
    got = originals.__getitems__([3, 1])
    one_by_one = ImageDataset(index, originals.transform)
    images = torch.stack([one_by_one[3]["image"], one_by_one[1]["image"]])
    torch.testing.assert_close(originals.batched(got["image"], got["index"], got["epoch"]), images)
    assert got["target"].tolist() == [1, 1]


def test_images_of_two_sizes_are_named(tmp_path: Path) -> None:
    index = write_split(tmp_path, [(10, 8), (10, 8), (9, 8)])
    with pytest.raises(DataError, match=r"2\.png is 9 x 8 pixels, expected 10 x 8"):
        _ = in_memory(index, METHOD.recipes["cifar10"].recipe, train=True).pixels


@pytest.fixture(scope="module", params=["drawn", pytest.param("photographs", marks=pytest.mark.slow)])
def cifar(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 as a folder of each class: a few drawn images, and 2,500 real ones where they lie."""
    if request.param == "photographs":
        return Path(request.getfixturevalue("real_data")) / "cifar10_mini"
    folder, rng = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    for label, name in enumerate(CIFAR10):
        for split, count in (("train", 40), ("test", 10)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 160, (32, 32, 3), dtype=np.uint8)
                pixels[8:24, 8:24, label % 3] += np.uint8(90 if label < 5 else 40)
                Image.fromarray(pixels).save(folder / split / name / f"{number:04d}.jpg")
    return folder


def test_cifar_images_train_and_validate(cifar: Path) -> None:
    folder = cifar / "train"
    names = ("airplane", "frog")
    records = [Record(f"{name}/{i:04d}.jpg", label) for label, name in enumerate(names) for i in range(40)]
    index = Index("cifar10_mini", "train", "singlelabel", names, folder, tuple(records))
    recipe = LSASRecipe(network="cifar", block="basic", depth=8, lr=0.05, epochs=12, milestones=(8,))
    data, whole = in_memory(index, recipe, train=True), in_memory(index, recipe, train=False)
    torch.manual_seed(0)
    model = METHOD.build_model(recipe, 2, "singlelabel")
    optimizer = build_optimizer(METHOD.param_groups(model, recipe), recipe)
    schedule = METHOD.schedule(recipe, steps_per_epoch=2)
    for step in range(24):
        apply_schedule(optimizer, schedule, step)
        got = data.__getitems__(np.random.default_rng(step).permutation(80)[:40].tolist())
        images = data.batched(got["image"], got["index"], got["epoch"] + step // 2)
        optimizer.zero_grad()
        METHOD.loss(model, {"image": images, "target": got["target"]}, recipe, "singlelabel")["loss"].backward()
        optimizer.step()
    model.eval()
    got = whole.__getitems__(range(80))
    with torch.no_grad():
        images = whole.batched(got["image"], got["index"], got["epoch"])
        scores = METHOD.predict(model, images, "singlelabel")["scores"]
    assert METHOD.measure(recipe, got["target"].numpy(), scores.numpy(), "singlelabel")["top1"] > 75


def test_cifar_images_through_the_command_line(cifar: Path, tmp_path: Path) -> None:
    source, machine = tmp_path / "few", ("--gpus", 0, "--threads", 1)
    for image in cifar.glob("*/*/000*.jpg"):
        copy = source / image.relative_to(cifar)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(image.resolve())
    attnbias("prepare-data", "cifar10", "--source", source, "--root", tmp_path, expect=0)
    small = ("--block", "basic", "--depth", 8, "--epochs", 1)
    runs = {"senet": "cifar10-senet", "lsas": "cifar10"}
    for name, recipe in runs.items():
        where = ("--data-root", tmp_path, "--out", tmp_path / name)
        attnbias("train", "lsas", "--recipe", recipe, *small, *where, *machine, expect=0)
        trained = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        arguments = ("--load-from", tmp_path / name, "--data-root", tmp_path, *machine, "--json", "-")
        (found,) = json.loads(attnbias("val", "lsas", *arguments, expect=0).out)
        assert (found["dataset"], found["samples"]) == ("cifar10", 100)
        assert found["measures"]["top1"] == trained["top1"]
        assert (tmp_path / name / "log.txt").is_file()

    images = sorted((source / "test" / "frog").iterdir())[:2]
    loads = [argument for name in runs for argument in ("--load-from", tmp_path / name)]
    seen = tmp_path / "seen"
    attnbias("visualize", "lsas", *loads, *images, "--classes", "frog", "--device", "cpu", "--out", seen, expect=0)
    for name, rows in {"senet": 3 * 2, "lsas": 1 * 3}.items():  # attended blocks: the attention and each factor
        stems = [f"{position:04d}_{image.stem}" for position, image in enumerate(images)]
        assert sorted(file.name for file in (seen / "overlays" / name).iterdir()) == [f"{s}.frog.png" for s in stems]
        assert sorted(file.name for file in (seen / "panels" / name).iterdir()) == [f"{s}.png" for s in stems]
        with Image.open(seen / "panels" / name / f"{stems[0]}.png") as panel:
            assert panel.height == rows * (HEIGHT + GAP) + GAP


# Cost and log ---------------------------------------------------------------------------------------------------------


def test_cost_is_the_same_with_and_without_computing() -> None:
    with torch.device("meta"):
        unmade = build_model(TINY, 4)
    assert measure_cost(unmade, 32) == measure_cost(tiny(), (32, 32))


def test_sub_attention_costs_parameters_and_no_macs() -> None:
    costs = [measure_cost(tiny(order=order), 32) for order in (0, 1)]
    assert costs[1].parameters - costs[0].parameters == 2 * 256
    assert costs[0].macs == costs[1].macs


def test_log_txt_follows_from_metrics_jsonl() -> None:
    lines = [
        {"step": 3, "epoch": 1, "split": "train", "lr": [0.1], "loss": 2.0, "top1": 10.0, "top5": 50.0},
        {"step": 4, "epoch": 1, "split": "train", "lr": [0.1], "loss": 4.0, "top1": 30.0, "top5": 90.0},
        {"step": 4, "epoch": 1, "split": "val", "weights": "raw", "loss": 1.5, "top1": 20.0, "top5": 60.0},
        {"step": 4, "epoch": 1, "split": "val", "weights": "ema", "loss": 1.4, "top1": 21.0, "top5": 61.0},
    ]
    text = log_text(json.loads(json.dumps(lines)), COLUMNS_TOP5)
    assert text.splitlines()[1] == "0.100000\t2.500000\t1.500000\t15.000000\t60.000000\t20.000000\t60.000000\t"
