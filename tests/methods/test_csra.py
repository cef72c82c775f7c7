"""CSRA: the fused head against the paper's equations, published checkpoints, maps, schedule, recipes."""

from __future__ import annotations

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
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.losses import classification_loss
from attnbias.methods.engine.recipe import parse
from tests.helpers import published_names


def head(temperatures: tuple[float, ...], lam: float = 0.5, classes: int = 5, width: int = 12) -> MultiHeadClassifier:
    torch.manual_seed(0)
    return MultiHeadClassifier(width, classes, temperatures, lam).double()


def features(batch: int = 3, width: int = 12, height: int = 4, columns: int = 3) -> Tensor:
    return torch.randn(batch, width, height, columns, generator=torch.Generator().manual_seed(1)).double()


def one_head(weight: Tensor, maps: Tensor, temperature: float, lam: float) -> Tensor:
    """The paper's equations on features, as written there: logit = <w, g + lam * a> with w of length 1."""
    logits = torch.empty(len(maps), len(weight), dtype=maps.dtype)
    for c, row in enumerate(weight / weight.norm(dim=1, keepdim=True)):
        for b, image in enumerate(maps.flatten(2)):  # (d, N)
            scores = row @ image
            share = F.one_hot(scores.argmax(), len(scores)) if temperature == 99 else (temperature * scores).softmax(0)
            attended = image @ share.to(image.dtype)
            logits[b, c] = row @ (image.mean(1) + lam * attended)
    return logits


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


def test_an_unnormalised_classifier_scores_by_its_weights_as_they_are() -> None:
    plain, maps = MultiHeadClassifier(12, 5, (1,), 0.0, normalized=False).double(), features()
    torch.testing.assert_close(plain(maps), maps.mean((2, 3)) @ plain.weight[0].T)
    told = METHOD.build_model(parse(CSRARecipe, {"backbone": "tiny", "normalized": False}), 3, "multilabel")
    assert not told.classifier.normalized


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


def test_attention_sums_to_one_and_is_one_location_where_the_maximum_rules(tiny: CSRA) -> None:
    images = torch.rand(2, 3, 64, 48)
    heads = torch.stack([METHOD.attention(tiny, images, kind="attention", head=k) for k in range(4)])
    assert heads.shape == (4, 2, 6, 8, 6)
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


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "heads"), [("resnet18", 2), ("resnet34", 1), ("resnet50", 4)])
def test_published_names_tell_the_model(backbone: str, heads: int) -> None:
    model = METHOD.build_model(CSRARecipe(backbone=backbone, num_heads=heads), 14, "multilabel")
    state = convert(published_names.csra(model.state_dict()))
    assert infer(state) == {"backbone": backbone, "num_heads": heads, "num_classes": 14}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert set(state) == set(model.state_dict())


# Recipe ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.integers(1, 6), st.integers(1, 4))
def test_the_schedule_is_that_of_two_schedulers_that_overwrite_each_other(warmup: int, decay: int, steps: int) -> None:
    recipe = CSRARecipe(warmup_epochs=warmup, decay_epochs=decay, epochs=14)
    schedule = step_decay(recipe, steps)
    # As in the published program: a warm-up stepped after each iteration while it lasts, a decay after each epoch.
    rate, total = (0.0 if warmup else 1.0), steps * warmup + 1e-8
    for epoch in range(1, recipe.epochs + 1):
        for position in range(steps):
            assert schedule((epoch - 1) * steps + position)["lr"] == pytest.approx(rate, rel=1e-6, abs=1e-12)
            if epoch <= warmup:
                rate = ((epoch - 1) * steps + position + 1) / total
        if epoch % decay == 0:
            rate *= recipe.gamma


def test_the_heads_learn_ten_times_faster(tiny: CSRA) -> None:
    recipe = CSRARecipe()
    backbone, heads = METHOD.param_groups(tiny, recipe)
    assert (backbone["lr"], heads["lr"]) == (0.01, 0.1)
    assert heads["params"] == [tiny.classifier.weight]


def test_the_maximum_is_99_or_inf_and_comes_last() -> None:
    recipe = parse(CSRARecipe, {"temperatures": (float("inf"), 2, 1)})
    assert recipe.head_temperatures == (1, 2, 99)
    with pytest.raises(UsageError, match="positive numbers"):
        parse(CSRARecipe, {"temperatures": (0,)})
    with pytest.raises(UsageError, match="num_heads"):
        parse(CSRARecipe, {"num_heads": 3})


def test_every_number_of_the_published_table_has_its_recipe() -> None:
    figures = {name: named.paper["mAP"] for name, named in RECIPES.items() if named.paper}
    assert sorted(figures.values()) == [79.4, 83.3, 85.6, 86.5, 86.9, 89.0, 90.2, 94.7, 95.2, 96.8]
    assert METHOD.default_recipe("wider") == "wider-vitb"
    assert METHOD.default_recipe("voc07") == "voc07-resnet101"
    assert METHOD.default_recipe("demo") == "demo"
