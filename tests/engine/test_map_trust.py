"""Can a map be trusted? ROAD, AOPC, agreement of maps, parameter randomisation: against NumPy, SciPy and known maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from attnbias.methods.engine.attention_measures import FAITHFULNESS
from attnbias.methods.engine.bias.faithfulness import (
    SHIFT,
    agreement_words,
    another_kind,
    aopc,
    faithfulness_curves,
    map_agreement,
    moved,
    shift_agreement,
    untrained,
)
from attnbias.methods.engine.bias.road import NOISE, imputed, road
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.maps import attention_maps, minmax
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from tests.helpers import measure_tables

REPO = Path(__file__).parents[2]


def test_a_removed_pixel_is_the_mean_of_its_neighbours() -> None:
    """Against Jacobi's iteration on padded planes, which knows no linear system."""
    rng = np.random.default_rng(0)
    image, missing = rng.random((3, 9, 11)), rng.random((9, 11)) < 0.6
    missing[0, 0] = missing[8, 10] = True  # at the border, fewer neighbours count
    around = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
    plane, there = image.copy(), np.pad(np.ones((9, 11)), 1)
    views = [(slice(y, y + 9), slice(x, x + 11), around[y, x]) for y in range(3) for x in range(3)]
    whole = sum(weight * there[y, x] for y, x, weight in views)
    for _ in range(3000):
        padded = np.pad(plane, ((0, 0), (1, 1), (1, 1)))
        mean = sum(weight * padded[:, y, x] for y, x, weight in views) / whole
        plane = np.where(missing, mean, image)
    found = imputed(torch.from_numpy(image), missing, seed=3).numpy()
    noise = found - plane
    assert np.array_equal(found[:, ~missing], image[:, ~missing])
    assert abs(noise[:, missing].mean()) < 4 * NOISE / np.sqrt(noise[:, missing].size)
    assert noise[:, missing].std() == pytest.approx(NOISE, rel=0.2)
    assert np.array_equal(imputed(torch.from_numpy(image), missing, seed=3).numpy(), found)


def test_road_tells_a_true_map_from_its_inverse_and_from_none() -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(3, 16, 16, generator=rng) * 0.1
    image[:, 4:8, 4:8] += 0.9
    truth = torch.zeros(16, 16)
    truth[4:8, 4:8] = 1

    def score(images: Tensor) -> Tensor:
        return images[:, :, 4:8, 4:8].mean((1, 2, 3))

    true, inverse = (road(image, saliency, score, seed=0) for saliency in (truth, 1 - truth))
    chance = [
        road(image, torch.rand(16, 16, generator=torch.Generator().manual_seed(seed)), score, 0) for seed in range(20)
    ]
    assert true > 0.2
    assert inverse < -0.2
    assert abs(np.mean(chance)) < 0.05


def test_aopc_is_the_mean_drop_of_the_deletion_curve() -> None:
    torch.manual_seed(0)
    image, saliency = torch.rand(3, 6, 6), torch.rand(6, 6)

    def score(images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))

    order = np.argsort(-saliency.numpy().ravel(), kind="stable")
    pixels, drops = image.numpy().reshape(3, -1).copy(), []
    for step in range(7):
        pixels[:, order[: 6 * step]] = 0
        drops.append(float(image.mean()) - pixels.mean())
    assert aopc(faithfulness_curves(image, saliency, score).deletion) == pytest.approx(np.mean(drops), abs=1e-6)


def test_agreement_is_spearmans_rank_correlation() -> None:
    torch.manual_seed(0)
    one, other = torch.rand(7, 7), (10 * torch.rand(7, 7)).round()  # with ties
    expected = stats.spearmanr(one.ravel(), other.ravel()).statistic
    assert map_agreement(one, other) == pytest.approx(expected)
    assert map_agreement(one, one.exp()) == pytest.approx(1)
    assert map_agreement(one, torch.ones(7, 7)) == 0


def test_a_map_of_the_image_moves_with_it_and_one_of_the_place_does_not() -> None:
    image = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))
    other = moved(image)
    assert other.shape == image.shape
    assert torch.equal(other[:, SHIFT:, SHIFT:], image[:, :-SHIFT, :-SHIFT])
    assert torch.equal(other[:, SHIFT:, 0], image[:, :-SHIFT, SHIFT])  # reflected
    assert shift_agreement(image.mean(0), other.mean(0)) == pytest.approx(1)
    place = torch.rand(24, 40, generator=torch.Generator().manual_seed(1))
    expected = stats.spearmanr(place[:-SHIFT, :-SHIFT].ravel(), place[SHIFT:, SHIFT:].ravel()).statistic
    assert shift_agreement(place, place) == pytest.approx(expected)
    assert abs(expected) < 0.15


def test_the_untrained_network_is_another_one_every_time_the_same() -> None:
    method = get_method("csra")
    recipe = method.named_recipe("demo").recipe
    torch.manual_seed(7)
    loaded = Loaded(
        method, recipe, method.build_model(recipe, 3, "multilabel").eval(), ("a", "b", "c"), "multilabel", ""
    )
    before = torch.get_rng_state()
    one, two = untrained(loaded).state_dict(), untrained(loaded).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    own = loaded.model.state_dict()
    assert not any(torch.equal(own[name], one[name]) for name in ("backbone.0.weight", "classifier.weight"))


def test_the_documentation_has_exactly_the_table() -> None:
    assert measure_tables.attention(FAITHFULNESS) in (REPO / "methods" / "engine" / "bias" / "README.md").read_text()


def test_agreement_is_with_a_map_that_is_another_computation_and_those_that_are_not_are_named() -> None:
    """CSRA's score maps are Grad-CAM up to a factor: their rank correlation of 1 would say nothing."""
    method = get_method("csra")
    recipe = override(method.named_recipe("demo").recipe, {"image_size": 32})
    torch.manual_seed(0)
    model = method.build_model(recipe, 3, "multilabel").eval()
    loaded = Loaded(method, recipe, model, ("a", "b", "c"), "multilabel", "")
    images = torch.rand(4, 3, 32, 32)
    every = torch.arange(3)
    own, grad = (minmax(attention_maps(method, model, images, every, kind)) for kind in (None, "gradcam"))
    label = int(own.sum((0, 2, 3)).argmax())
    assert own[:, label].any()
    torch.testing.assert_close(own, grad, atol=1e-4, rtol=0)
    samples = [(image, label) for image in images]
    assert another_kind(loaded, samples, "score") == ("layercam", ("gradcam",))
    assert another_kind(loaded, samples, "gradcam") == ("layercam", ("score",))
    assert another_kind(loaded, samples, "attention")[0] == "gradcam"
    words = agreement_words("layercam", "score", ("gradcam",))
    assert words == "'layercam', not with 'gradcam': the same computation as 'score' here"
