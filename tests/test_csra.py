"""CSRA: the fused head against the paper's equations, published checkpoints, maps, schedule, recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from attnbias.methods.csra.convert import convert, infer
from attnbias.methods.csra.method import METHOD
from attnbias.methods.csra.model import CSRA, MultiHeadClassifier
from attnbias.methods.csra.recipe import RECIPES, TEMPERATURES, CSRARecipe, step_decay
from attnbias.methods.engine.backbones import build_backbone, fit_position_embedding, load_backbone
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.losses import classification_loss
from attnbias.methods.engine.recipe import parse, read_recipe, write_recipe
from attnbias.weights.errors import WeightsError


def head(temperatures: tuple[float, ...], lam: float = 0.5, classes: int = 5, width: int = 12) -> MultiHeadClassifier:
    torch.manual_seed(0)
    return MultiHeadClassifier(width, classes, temperatures, lam).double()


def features(batch: int = 3, width: int = 12, height: int = 4, columns: int = 3) -> Tensor:
    return torch.randn(batch, width, height, columns, generator=torch.Generator().manual_seed(1)).double()


def one_head(weight: Tensor, maps: Tensor, temperature: float, lam: float) -> Tensor:
    """The paper's equations on features, as written there: logit = <w, g + lam * a> with w of length 1."""
    logits = torch.empty(len(maps), len(weight), dtype=maps.dtype)
    for c, row in enumerate(weight / weight.norm(dim=1, keepdim=True)):
        for b, picture in enumerate(maps.flatten(2)):  # (d, N)
            scores = row @ picture
            share = F.one_hot(scores.argmax(), len(scores)) if temperature == 99 else (temperature * scores).softmax(0)
            attended = picture @ share.to(picture.dtype)
            logits[b, c] = row @ (picture.mean(1) + lam * attended)
    return logits


def published(model: CSRA) -> dict[str, Tensor]:
    """Our weights under the names of the published program."""
    state = {name.removeprefix("backbone."): value for name, value in model.state_dict().items()}
    for k, rows in enumerate(state.pop("classifier.weight")):
        state[f"classifier.multi_head.{k}.head.weight"] = rows[..., None, None].clone()
    return state


# The head -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperatures", [*TEMPERATURES.values(), (99,), (0.5, 2.5)], ids=str)
def test_all_heads_at_once_are_the_sum_of_the_papers_heads(temperatures: tuple[float, ...]) -> None:
    fused, maps = head(temperatures, lam=0.3), features()
    expected = sum(one_head(fused.weight[k], maps, t, 0.3) for k, t in enumerate(temperatures))
    torch.testing.assert_close(fused(maps), expected)


def test_lam_zero_is_average_pooling_with_a_normalised_classifier() -> None:
    plain, maps = head((1,), lam=0), features()
    expected = maps.mean((2, 3)) @ F.normalize(plain.weight[0], dim=1).T
    torch.testing.assert_close(plain(maps), expected)


def test_rows_count_by_their_direction_only() -> None:
    fused, maps = head((1, 99)), features()
    before = fused(maps)
    before.sum().backward()
    torch.testing.assert_close((fused.weight.grad * fused.weight).sum(-1), torch.zeros(2, 5).double())
    with torch.no_grad():
        fused.weight *= torch.rand(2, 5, 1).double() + 0.1
    torch.testing.assert_close(fused(maps), before)


def test_a_single_location_is_attended_with_weight_one() -> None:
    fused, maps = head((1, 99), lam=0.3), features(height=1, columns=1)
    torch.testing.assert_close(fused(maps), 1.3 * fused.scores(maps)[..., 0].sum(1))


def test_logits_are_float32_under_autocast() -> None:
    fused, maps = head((1, 99)).float(), features().float()
    with torch.autocast("cpu", torch.bfloat16):
        logits = fused(maps.bfloat16())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, fused(maps.bfloat16().float()))


# Maps -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> CSRA:
    torch.manual_seed(0)
    return METHOD.build_model(RECIPES["demo"].recipe, 6, "multilabel").eval()


@pytest.mark.parametrize("kind", list(METHOD.maps))
def test_maps_of_asked_classes_are_those_of_all_classes(tiny: CSRA, kind: str) -> None:
    images = torch.rand(2, 3, 64, 48)
    every = METHOD.attention(tiny, images, kind=kind)
    assert every.shape == (2, 6, 8, 6)
    assert every.dtype == torch.float32
    assert (every >= 0).all()
    torch.testing.assert_close(METHOD.attention(tiny, images, torch.tensor([4, 1]), kind=kind), every[:, [4, 1]])
    own = METHOD.attention(tiny, images, torch.tensor([[3], [0]]), kind=kind)
    torch.testing.assert_close(own, torch.stack([every[0, 3:4], every[1, :1]]))


def test_attention_sums_to_one_and_is_one_location_where_the_maximum_rules(tiny: CSRA) -> None:
    images = torch.rand(2, 3, 64, 64)
    heads = torch.stack([METHOD.attention(tiny, images, kind="attention", head=k) for k in range(4)])
    torch.testing.assert_close(heads.sum((-2, -1)), torch.ones(4, 2, 6))
    assert ((heads[3] == 0) | (heads[3] == 1)).all()
    torch.testing.assert_close(METHOD.attention(tiny, images, kind="attention"), heads.mean(0))


def test_a_head_that_is_not_there_is_refused(tiny: CSRA) -> None:
    with pytest.raises(UsageError, match="heads 0 to 3"):
        METHOD.attention(tiny, torch.rand(1, 3, 64, 64), head=4)


# Loss -----------------------------------------------------------------------------------------------------------------


def test_unknown_labels_add_nothing() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    target = torch.tensor([[1.0, -1, 0]]).expand(4, 3)
    loss = classification_loss(logits, target, "multilabel")
    loss.backward()
    assert (logits.grad[:, 1] == 0).all()
    known = F.binary_cross_entropy_with_logits(logits[:, [0, 2]], target[:, [0, 2]])
    torch.testing.assert_close(loss, known * 2 / 3)


@pytest.mark.parametrize("task", ["multilabel", "singlelabel"])
def test_the_loss_of_a_batch_is_the_weighted_mean_of_its_shards(task: str) -> None:
    logits = torch.randn(7, 3)
    target = torch.randint(-1, 2, (7, 3)).float() if task == "multilabel" else torch.randint(0, 3, (7,))
    whole = classification_loss(logits, target, task)
    parts = [classification_loss(logits[s], target[s], task) * len(logits[s]) / 7 for s in (slice(2), slice(2, 7))]
    torch.testing.assert_close(sum(parts), whole)


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "heads"), [("resnet18", 2), ("resnet34", 1), ("resnet50", 4)])
def test_published_names_tell_the_model(backbone: str, heads: int) -> None:
    model = METHOD.build_model(CSRARecipe(backbone=backbone, num_heads=heads), 14, "multilabel")
    state = convert(published(model))
    assert infer(state) == {"backbone": backbone, "num_heads": heads, "num_classes": 14}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert set(state) == set(model.state_dict())


def test_a_file_trained_on_several_gpus_loads_and_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = METHOD.build_model(CSRARecipe(backbone="resnet18", num_heads=2, lam=0.1), 20, "multilabel").eval()
    torch.save({f"module.{name}": value for name, value in published(model).items()}, tmp_path / "epoch_3.pth")
    loaded = load_run("csra", str(tmp_path / "epoch_3.pth"), {"lam": 0.1}, data_root=tmp_path)
    assert (loaded.recipe.backbone, loaded.recipe.num_heads, loaded.recipe.lam) == ("resnet18", 2, 0.1)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), model(images))
    with pytest.raises(UsageError, match="--num-heads 4 contradicts"):
        load_run("csra", str(tmp_path / "epoch_3.pth"), {"num_heads": 4}, data_root=tmp_path)


def test_weights_of_other_networks_are_not_taken_for_csras() -> None:
    assert infer(convert({"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)})) == {}


def test_a_position_embedding_is_resampled_to_the_models_grid_and_keeps_its_class_token() -> None:
    small, large = build_backbone("vit_tiny_patch16_224", 64), build_backbone("vit_tiny_patch16_224", 96)
    name = "model.pos_embed"
    fitted = fit_position_embedding(large, small.state_dict(), name)
    assert fitted[name].shape == (1, 37, 192)
    assert torch.equal(fitted[name][:, 0], small.state_dict()[name][:, 0])
    assert fit_position_embedding(small, small.state_dict(), name)[name] is not None
    large.load_state_dict(fitted)


def test_a_backbone_starts_from_a_published_classifier_without_its_head() -> None:
    torch.manual_seed(0)
    import torchvision

    network = torchvision.models.resnet18(weights=None)
    state = {n: v for n, v in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    model = METHOD.build_model(CSRARecipe(backbone="resnet18"), 3, "multilabel")
    METHOD.load_backbone(model, CSRARecipe(), state, Path("resnet18.pth"))
    assert torch.equal(model.backbone.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
    del state["layer2.0.conv1.weight"]
    with pytest.raises(WeightsError, match=r"1 missing: layer2\.0\.conv1\.weight"):
        load_backbone(model.backbone, state, Path("resnet18.pth"))


# Backbones ------------------------------------------------------------------------------------------------------------


TORCHVISION = ["mobilenet_v3_small", "shufflenet_v2_x0_5"]
TIMM = ["resnet18d", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224"]


@pytest.mark.parametrize("name", ["tiny", "tiny_vit", *TORCHVISION, *TIMM])
def test_any_network_of_torchvision_or_timm_gives_feature_maps(name: str) -> None:
    backbone = build_backbone(name, 64).eval()
    with torch.no_grad():
        found = backbone(torch.rand(2, 3, 64, 64))
    assert found.ndim == 4
    assert found.shape[:2] == (2, backbone.num_features)
    assert found.shape[2] == found.shape[3]


def test_a_fresh_backbone_has_seen_nothing() -> None:
    backbone = build_backbone("resnet18", 64)
    assert backbone.training
    assert (backbone.bn1.running_mean == 0).all()


def test_an_unknown_backbone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet101'"):
        build_backbone("resnet_101", 64)


# Recipe ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.integers(1, 6), st.integers(1, 4))
def test_the_schedule_is_that_of_two_schedulers_that_overwrite_each_other(warmup: int, decay: int, steps: int) -> None:
    recipe = CSRARecipe(warmup_epochs=warmup, decay_epochs=decay, epochs=14)
    schedule = step_decay(recipe, steps)
    # As in the published program: a warm-up stepped after each iteration while it lasts, a decay after each epoch.
    rate, total = (0.0 if warmup else 1.0), steps * warmup + 1e-8
    for epoch in range(1, recipe.epochs + 1):
        for place in range(steps):
            assert schedule((epoch - 1) * steps + place)["lr"] == pytest.approx(rate, rel=1e-6, abs=1e-12)
            if epoch <= warmup:
                rate = ((epoch - 1) * steps + place + 1) / total
        if epoch % decay == 0:
            rate *= recipe.gamma


def test_every_parameter_is_in_one_group_and_the_heads_learn_ten_times_faster(tiny: CSRA) -> None:
    recipe = CSRARecipe()
    backbone, heads = METHOD.param_groups(tiny, recipe)
    assert {id(p) for g in (backbone, heads) for p in g["params"]} == {id(p) for p in tiny.parameters()}
    assert (backbone["lr"], heads["lr"]) == (0.01, 0.1)
    assert heads["params"] == [tiny.classifier.weight]


def test_the_maximum_is_99_or_inf_and_comes_last() -> None:
    recipe = parse(CSRARecipe, {"temperatures": (float("inf"), 2, 1)})
    assert recipe.head_temperatures == (1, 2, 99)
    with pytest.raises(UsageError, match="positive numbers"):
        parse(CSRARecipe, {"temperatures": (0,)})
    with pytest.raises(UsageError, match="num_heads"):
        parse(CSRARecipe, {"num_heads": 3})


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_can_be_written_read_and_its_pipelines_built(name: str, tmp_path: Path) -> None:
    from PIL import Image

    recipe = RECIPES[name].recipe
    write_recipe(tmp_path / "recipe.yaml", recipe, "csra")
    assert read_recipe(tmp_path / "recipe.yaml", CSRARecipe, "csra") == recipe
    for train in (True, False):
        image = METHOD.transform(recipe, train)(Image.new("RGB", (70, 50)))
        assert image.shape == (3, recipe.image_size, recipe.image_size)


def test_every_number_of_the_published_table_has_its_recipe() -> None:
    figures = {name: named.paper["mAP"] for name, named in RECIPES.items() if named.paper}
    assert sorted(figures.values()) == [83.3, 85.6, 86.5, 86.9, 89.0, 90.2, 94.7, 95.2, 96.8]
    assert METHOD.default_recipe("wider") == "wider-vitb"
    assert METHOD.default_recipe("voc07") == "voc07-resnet101"
    assert METHOD.default_recipe("demo") == "demo"
