"""IDA's promises: the described head in one batch, losses blind to processes, early stop, loading, maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.data.sets.voc import CLASSES as VOC
from attnbias.data.transforms.cutout import RandomCutout
from attnbias.data.transforms.multiscale_crop import MultiScaleCrop
from attnbias.data.transforms.randaugment import OPERATIONS, RandAugmentPolicy, apply_operation
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.losses import binary_cross_entropy
from attnbias.methods.engine.outline import names_and_shapes
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.training.optim import apply_schedule, build_optimizer
from attnbias.methods.engine.training.starting_weights import initial_weights
from attnbias.methods.ida.convert import COCO_TO_VOC, coco_to_voc
from attnbias.methods.ida.curves import reference_curves
from attnbias.methods.ida.loss import asymmetric_loss, classification_loss
from attnbias.methods.ida.model import IDA, AttentionLayer, InterventionalClassifier, TransformerLayer
from attnbias.methods.ida.recipe import IDARecipe, best_of, should_stop
from attnbias.weights.errors import WeightsError
from tests.helpers import published_names
from tests.helpers.forked import ForkedRun
from tests.parity.golden_case import Golden

METHOD = get_method("ida")
GOLDENS = Path(__file__).parents[1] / "goldens" / "ida"
CLASSES = 5
DIM = 24
SMALL = IDARecipe(
    backbone="tiny", image_size=32, augmentation="shift", shift=2, amp="no", samples=4, heavy=False, optimizer="adamw"
)


def features(count: int = 3, height: int = 2, width: int = 3) -> Tensor:
    return torch.randn(count, DIM, height, width, generator=torch.Generator().manual_seed(1))


def make_images(count: int = 2, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def classifier(classes: int = CLASSES, **options: Any) -> InterventionalClassifier:
    torch.manual_seed(0)
    head = InterventionalClassifier(DIM, classes, **options)
    for layer in head.layers:  # layers start alike: tell them apart
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3)
    return head.eval()


def build(recipe: IDARecipe = SMALL, classes: int = CLASSES, **changes: Any) -> IDA:
    torch.manual_seed(0)
    model = METHOD.build_model(override(recipe, changes), classes, "multilabel")
    assert isinstance(model, IDA)
    return model.eval()


# The head -------------------------------------------------------------------------------------------------------------


def described(head: InterventionalClassifier, x: Tensor) -> Tensor:
    """The classifier as its description reads, image by image, class by class, sample by sample."""
    samples, classes, width = head.weight.shape
    logits = torch.empty(len(x), classes)
    for b in range(len(x)):
        for c in range(classes):
            vectors = [head.weight[n, c] / (head.weight[n, c].norm() + head.beta) for n in range(samples)]
            attended = []
            for n, vector in enumerate(vectors):
                block = x[b, n * width : (n + 1) * width].flatten(1)  # (d, h * w)
                attended.append(block @ torch.softmax(vector @ block, 0))
            stacked = torch.stack(attended, -1)  # (d, N)
            tokens = stacked.reshape(samples, width) if head.token_layout == "interleaved" else stacked.T
            for layer in head.layers:
                query, key, value = F.linear(tokens, layer.qkv.weight, layer.qkv.bias).split(width, -1)
                weights = torch.softmax(query @ key.T / width**0.5, -1)
                tokens = tokens + layer.proj(weights @ value)
                if isinstance(layer, TransformerLayer):
                    tokens = layer.norm1(tokens)
                    tokens = layer.norm2(tokens + layer.linear2(torch.relu(layer.linear1(tokens))))
            logits[b, c] = head.out_proj(tokens.flatten()) @ torch.cat(vectors)
    return logits


@pytest.mark.parametrize("layout", ["interleaved", "per_sample"])
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize(("samples", "classes"), [(1, CLASSES), (2, CLASSES), (6, CLASSES), (4, 1)])
def test_one_batch_equals_the_description_step_by_step(samples: int, classes: int, heavy: bool, layout: Any) -> None:
    head = classifier(classes, samples=samples, heavy=heavy, token_layout=layout)
    with torch.no_grad():
        expected = described(head, features())
        assert torch.allclose(head(features()), expected, atol=1e-5)
        assert torch.allclose(head.trace(features()).logits, expected, atol=1e-5)


def test_tokens_of_the_paper_hold_one_sample_each_and_those_of_the_program_all() -> None:
    x = features()
    changed = x.clone()
    changed[:, : DIM // 4] += 1.0 + torch.arange(6.0).reshape(2, 3)  # the first sample's channels only
    for layout, expected in (("per_sample", [True, False, False, False]), ("interleaved", [True] * 4)):
        head = classifier(token_layout=layout)
        with torch.no_grad():
            moved = (head.trace(changed).tokens - head.trace(x).tokens).abs().amax((0, 2)) > 1e-4
        assert moved.tolist() == expected


def test_layers_start_alike_and_a_zero_class_vector_stays_finite() -> None:
    head = InterventionalClassifier(DIM, CLASSES, heavy=True)
    first, second = (layer.state_dict() for layer in head.layers)
    assert all(torch.equal(first[name], second[name]) for name in first)
    nn.init.zeros_(head.weight)
    logits = head(features())
    logits.sum().backward()
    assert head.weight.grad is not None
    assert torch.isfinite(logits).all()
    assert torch.isfinite(head.weight.grad).all()


@pytest.mark.parametrize("heavy", [False, True])
def test_reduced_precision_stays_close(heavy: bool) -> None:
    head = classifier(heavy=heavy)
    with torch.no_grad():
        exact = head(features())
        with torch.autocast("cpu", torch.bfloat16):
            coarse = head(features().bfloat16())
    assert (coarse.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_samples_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(UsageError, match="64 feature channels cannot be cut into 3 equal samples"):
        build(samples=3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("coco-resnet101-448-heavy", 53_165_120),
        ("coco-resnet101-448-linear", 42_664_080),
        ("coco-swinb-384-heavy", 90_640_248),
        ("coco-swinl-384-heavy", 202_018_612),
    ],
)
def test_recipes_build_the_published_numbers_of_parameters(name: str, parameters: int) -> None:
    with names_and_shapes():
        model = METHOD.build_model(METHOD.named_recipe(name).recipe, 80, "multilabel")
    assert sum(p.numel() for p in model.parameters()) == parameters


# Losses and groups ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bce_sum", "bce_mean", "asl"])
def test_loss_does_not_depend_on_how_a_batch_is_cut(loss: Any) -> None:
    recipe = IDARecipe(loss=loss)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(12, CLASSES, generator=generator)
    target = (torch.rand(12, CLASSES, generator=generator) < 0.3).float()
    whole = classification_loss(logits, target, recipe, "multilabel")
    parts = [
        classification_loss(x, y, recipe, "multilabel") * len(x) / 12
        for x, y in zip(logits.split(5), target.split(5), strict=True)
    ]
    assert torch.allclose(sum(parts, torch.zeros(())), whole)


def test_unknown_labels_add_nothing() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(4)).requires_grad_()
    target = torch.tensor([[1.0, 0.0, -1.0]] * 4)
    losses = (
        binary_cross_entropy,
        lambda x, y: asymmetric_loss(x, y, gamma_pos=1, gamma_neg=4, clip=0.05, detach_focus=True),
    )
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss(logits, target), logits)
        assert not gradient[:, 2].any()
        assert gradient[:, :2].abs().min() > 0


def test_single_label_sets_use_cross_entropy() -> None:
    logits, target = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    loss = classification_loss(logits, target, IDARecipe(), "singlelabel")
    assert torch.equal(loss, F.cross_entropy(logits, target))


def test_groups_spare_biases_and_normalisation_or_slow_the_backbone() -> None:
    model = build(heavy=True)
    names = {id(p): name for name, p in model.named_parameters()}

    def groups(**changes: Any) -> list[tuple[set[str], float, float]]:
        found = METHOD.param_groups(model, override(SMALL, {"weight_decay": 0.01, "lr": 1e-3, **changes}))
        return [({names[id(p)] for p in group["params"]}, group["lr"], group["weight_decay"]) for group in found]

    spared, decayed = groups(param_groups="no_decay_1d")
    assert spared[2] == 0
    assert {"head.layers.0.norm1.weight", "head.layers.0.qkv.bias", "backbone.1.weight"} <= spared[0]
    assert decayed[1:] == (1e-3, 0.01)
    assert {"head.weight", "head.out_proj.weight", "backbone.0.weight"} <= decayed[0]
    backbone, others = groups(param_groups="backbone_factor")
    assert all(name.startswith("backbone.") for name in backbone[0])
    assert backbone[1] == pytest.approx(1e-4)
    assert others[1] == 1e-3
    shared, _ = groups(param_groups="backbone_factor", legacy_shared_lr=True)
    assert shared[1] == 1e-3
    for found in ([spared, decayed], [backbone, others]):
        assert set.union(*(group[0] for group in found)) == set(names.values())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 3), (3, 7), (4, 25)])
def test_one_cycle_is_torchs(optimizer: Any, epochs: int, steps: int) -> None:
    recipe = override(SMALL, {"optimizer": optimizer, "epochs": epochs, "lr": 0.1})
    ours, theirs = (build_optimizer(METHOD.param_groups(build(), recipe), recipe) for _ in range(2))
    cycle = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.1, total_steps=epochs * steps, pct_start=0.2)
    schedule = METHOD.schedule(recipe, steps)
    for step in range(epochs * steps):
        apply_schedule(ours, schedule, step)
        for mine, torchs in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert mine["lr"] == pytest.approx(torchs["lr"], rel=1e-9)
            assert mine.get("betas", mine.get("momentum")) == pytest.approx(torchs.get("betas", torchs.get("momentum")))
        theirs.step()
        if step + 1 < epochs * steps:
            cycle.step()


# Early stop -----------------------------------------------------------------------------------------------------------

figures = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=30)


@given(figures, st.integers(0, 9))
def test_a_run_never_stops_within_its_patience_or_at_its_best_average(
    pairs: list[tuple[int, int]], patience: int
) -> None:
    history = [{"raw": raw, "ema": ema} for raw, ema in pairs]
    if should_stop(history, patience):
        recent = history[-patience - 1 :]
        best, best_raw = best_of(history), max(entry["raw"] for entry in history)
        assert best is not None
        assert best.position < len(history) - 1 - patience
        assert all(entry["raw"] < best_raw for entry in recent) or best_raw in [
            e["raw"] for e in history[: -len(recent)]
        ]
        assert history[-1]["ema"] < max(entry["ema"] for entry in history)


def test_best_is_the_earliest_and_raw_before_averaged() -> None:
    assert best_of([]) is None
    history = [{"raw": 5.0, "ema": 1.0}, {"raw": 7.0, "ema": 7.0}, {"raw": 7.0, "ema": 6.0}]
    assert best_of(history) == (1, 7.0, "raw")


def test_without_patience_or_average() -> None:
    falling = [{"raw": 50.0 - step} for step in range(12)]
    assert METHOD.should_stop(IDARecipe(patience=8), falling)
    assert not METHOD.should_stop(IDARecipe(patience=11), falling)
    assert not METHOD.should_stop(IDARecipe(patience=None), falling)


def test_two_processes_stop_together(demo_root: Path, tmp_path: Path) -> None:
    # At a rate far too high the measures fall soon.
    flags = ["--epochs", 40, "--batch-size", 36, "--image-size", 32, "--ema-decay", 0.5, "--patience", 0]
    flags += ["--lr", 0.5, "--gpus", 0, "--threads", 1]
    where = ["--recipe", "demo", "--data-root", demo_root, "--out", tmp_path / "run"]
    run = ForkedRun(["train", "ida", *where, *flags], tmp_path / "log", processes=2)
    assert run.wait() == [0, 0], run.log.read_text()
    progress = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    epochs = [line["epoch"] for line in progress if line["split"] == "val"]
    assert max(epochs) < 40
    history = [
        {line["weights"]: line["mAP"] for line in progress if line["split"] == "val" and line["epoch"] == epoch}
        for epoch in sorted(set(epochs))
    ]
    stops = [should_stop(history[: position + 1], 0) for position in range(len(history))]
    assert stops == [False] * (len(history) - 1) + [True]


# Published weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("heavy", [False, True])
def test_both_forms_of_published_checkpoints_load_without_flags(prefix: str, heavy: bool, tmp_path: Path) -> None:
    model = build(backbone="resnet18", heavy=heavy, samples=2, classes=20)
    content = {
        "epoch": 20,
        "arch": "IDA-R101-448",
        "state_dict": {prefix + name: value for name, value in published_names.ida(model.state_dict()).items()},
        "best_mAP": np.float64(84.7),
        "optimizer": {},
    }
    path = tmp_path / "model_best.pth.tar"
    torch.save(content, path)
    loaded = load_run("ida", str(path), {"image_size": 64})
    assert loaded.recipe.dataset == "voc07"
    assert len(loaded.classes) == 20
    assert (loaded.recipe.backbone, loaded.recipe.samples, loaded.recipe.heavy) == ("resnet18", 2, heavy)
    with torch.no_grad():
        assert torch.equal(loaded.model(make_images(side=64)), model(make_images(side=64)))


def test_coco_classes_are_picked_by_name(coco_source: Path) -> None:
    content = json.loads((coco_source / "annotations" / "instances_train2017.json").read_text())
    coco = [category["name"] for category in sorted(content["categories"], key=lambda category: category["id"])]
    alike = {
        "aeroplane": "airplane",
        "diningtable": "dining table",
        "motorbike": "motorcycle",
        "pottedplant": "potted plant",
        "sofa": "couch",
        "tvmonitor": "tv",
    }
    assert [coco[place] for place in COCO_TO_VOC] == [alike.get(name, name) for name in VOC]


def test_coco_classifiers_start_voc() -> None:
    for head in ("interventional", "linear"):
        large = build(classes=80, classifier=head)
        small = build(classes=20, classifier=head)
        small.load_state_dict(coco_to_voc(large.state_dict()))
        with torch.no_grad():
            assert torch.allclose(small(make_images()), large(make_images())[:, list(COCO_TO_VOC)], atol=1e-6)


def test_a_wrong_number_of_classes_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "coco.pth"
    torch.save(published_names.ida(build(backbone="resnet18", classes=80).state_dict()), path)
    recipe = override(SMALL, {"backbone": "resnet18"})

    def start(dataset: str, classes: int, reset_head: bool = False) -> IDA:
        model = build(backbone="resnet18", classes=classes)
        initial_weights(
            METHOD,
            model,
            override(recipe, {"dataset": dataset}),
            load_from=str(path),
            backbone_weights=None,
            reset_head=reset_head,
            trust=False,
            classes=("class",) * classes,
            task="multilabel",
        )
        return model

    with pytest.raises(WeightsError, match=r"head.weight \(file 4x80x128, model 4x10x128\).*--reset-head"):
        start("demo", 10)
    start("demo", 10, reset_head=True)
    kept = start("voc07", 20).head.weight
    assert torch.equal(kept, build(backbone="resnet18", classes=80).head.weight[:, list(COCO_TO_VOC)])


# Maps -----------------------------------------------------------------------------------------------------------------


def test_maps_are_distributions_over_positions_by_sample_and_averaged() -> None:
    model, images = build(), make_images()
    every = METHOD.attention(model, images)
    assert every.shape == (2, CLASSES, 4, 4)
    assert every.dtype == torch.float32
    assert torch.allclose(every.sum((2, 3)), torch.ones(2, CLASSES))
    samples = [METHOD.attention(model, images, head=sample) for sample in range(4)]
    assert torch.allclose(torch.stack(samples).mean(0), every, atol=1e-6)
    assert torch.equal(METHOD.attention(model, images, torch.tensor([3, 0])), every[:, [3, 0]])
    own = METHOD.attention(model, images, torch.tensor([[1], [4]]))
    assert torch.equal(own[:, 0], torch.stack([every[0, 1], every[1, 4]]))
    with pytest.raises(UsageError, match="samples 0 to 3"):
        METHOD.attention(model, images, head=4)


def test_the_baseline_shows_its_activation_maps() -> None:
    model, images = build(classifier="linear"), make_images()
    maps = METHOD.attention(model, images)
    with torch.no_grad():
        evidence = torch.einsum("bdhw,cd->bchw", model.backbone(images), model.head.fc.weight)
    assert torch.allclose(maps, evidence.relu(), atol=1e-5)
    for options in ({"head": 0}, {"kind": "tokens"}):
        with pytest.raises(UsageError, match="linear baseline"):
            METHOD.attention(model, images, **options)


@pytest.mark.parametrize("heavy", [False, True])
def test_token_attention_of_each_layer(heavy: bool) -> None:
    model, classes = build(heavy=heavy), torch.tensor([2, 0])
    first, last = (METHOD.attention(model, make_images(), classes, kind="tokens", head=layer) for layer in (0, None))
    assert first.shape == (2, 2, 4, 4)
    assert torch.allclose(first.sum(-1), torch.ones(2, 2, 4))
    assert torch.equal(first, last) is not heavy
    with torch.no_grad():
        layer = model.head.layers[0]
        assert isinstance(layer, AttentionLayer)
        tokens = model.head.trace(model.backbone(make_images())).tokens.unflatten(0, (2, CLASSES))[:, classes]
        assert torch.allclose(layer.attention(tokens.flatten(0, 1)).unflatten(0, (2, 2)), first, atol=1e-6)
    with pytest.raises(UsageError, match="layers 0 to"):
        METHOD.attention(model, make_images(), kind="tokens", head=2)


# Images -------------------------------------------------------------------------------------------------------------


def scene(width: int = 120, height: int = 90) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("augmentation", ["randaugment", "multiscale_crop", "shift"])
def test_training_images_follow_the_seed_and_keep_their_shape(augmentation: Any) -> None:
    transform = METHOD.transform(IDARecipe(image_size=64, augmentation=augmentation), train=True)

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return transform(scene())

    first = draw(0)
    assert first.shape == (3, 64, 64)
    assert first.dtype == torch.float32
    assert torch.equal(first, draw(0))
    assert any(not torch.equal(first, draw(seed)) for seed in range(1, 4))


def test_randaugment_magnitudes_are_the_packages() -> None:
    case = Golden.read(GOLDENS / "randaugment_parameters.json.gz")
    assert list(OPERATIONS) == case.config["ops"]
    for name, magnitudes in case.config["magnitudes_index_0_to_9"].items():
        assert OPERATIONS[name].magnitudes == pytest.approx(magnitudes, abs=1e-12)


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("position", [1, 9])
def test_every_operation_keeps_size_and_mode(name: str, position: int) -> None:
    for sign in (1, -1):
        changed = apply_operation(scene(), name, position, sign)
        assert (changed.size, changed.mode) == ((120, 90), "RGB")


def test_a_quarter_of_the_images_passes_randaugment_unchanged() -> None:
    torch.manual_seed(0)
    image, policy = Image.new("RGB", (8, 8)), RandAugmentPolicy()
    untouched = sum(policy(image) is image for _ in range(400))
    assert 60 < untouched < 140


def test_cutout_leaves_the_rest_alone() -> None:
    torch.manual_seed(0)
    before = scene()
    after = np.asarray(RandomCutout(20)(before))
    changed = (after != np.asarray(before)).any(-1)
    assert 0 < changed.sum() <= 21 * 21
    assert len(np.unique(after[changed], axis=0)) == 1


def test_multiscale_crops_take_parts_of_several_shapes() -> None:
    torch.manual_seed(0)
    crop = MultiScaleCrop(64)
    crops = {crop(scene(128, 128)).tobytes() for _ in range(20)}
    assert len(crops) > 5
    assert crop(scene(128, 128)).size == (64, 64)


# The whole ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"heavy": False}, {"heavy": True}, {"loss": "asl"}, {"classifier": "linear"}])
def test_a_few_steps_learn_a_few_images(changes: dict[str, Any]) -> None:
    recipe = override(SMALL, {"lr": 2e-3, "loss": "bce_mean", **changes})
    model = build(recipe).train()
    target = (torch.rand(8, CLASSES, generator=torch.Generator().manual_seed(5)) < 0.4).float()
    batch = {"image": make_images(8), "target": target}
    optimizer = torch.optim.AdamW(METHOD.param_groups(model, recipe))
    losses = []
    for _ in range(40):
        loss = METHOD.loss(model, batch, recipe, "multilabel")["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_published_curves_are_at_hand() -> None:
    curves = reference_curves()
    best = dict.fromkeys(curves["run"], 0.0)
    for run, value in zip(curves["run"], curves["val_mAP_ema"], strict=True):
        best[run] = max(best[run], float(value))
    assert sorted(best.values()) == pytest.approx([84.697, 84.740], abs=1e-3)


def test_the_default_is_the_readme() -> None:
    named = METHOD.named_recipe(METHOD.default_recipe())
    recipe = named.recipe
    assert (recipe.backbone, recipe.image_size, recipe.samples, recipe.heavy) == ("resnet101", 448, 4, True)
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.epochs, recipe.batch_size) == (
        "adam",
        1e-4,
        1e-4,
        80,
        128,
    )
    assert named.paper["mAP"] == 84.8
    assert METHOD.default_recipe("voc07") == "voc07-resnet101-448-heavy"
    assert METHOD.default_recipe("demo") == "demo"
