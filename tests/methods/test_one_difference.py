"""A method and its plain counterpart differ in nothing but the method: by their resolved recipes, and across methods by
networks, images and rates themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.attention import Attention
from torch import nn

from attnbias.data.index import Index
from attnbias.data.registry import open_split
from attnbias.methods import METHODS
from attnbias.methods.engine.recipe import changed
from attnbias.methods.engine.registry import get_description, get_method
from tests.benchmarks.bias import CONTENDERS
from tests.helpers.command_line import attnbias

SHARED = (
    *("dataset", "image_size", "normalize", "drop_unlabelled", "unknown_train", "epochs", "steps", "batch_size"),
    *("drop_last", "optimizer", "lr", "momentum", "weight_decay", "clip_grad", "ema_decay", "amp", "seed"),
)
"""Fields that decide training and that every method has."""

OWN = {
    ("csra", "scenes", "scenes-plain"): {"lam"},
    ("csra", "scenes-vit", "scenes-vit-plain"): {"lam"},
    ("csra", "demo", "demo-plain"): {"lam"},
    ("ida", "scenes", "scenes-plain"): {"classifier"},
    ("ida", "demo", "demo-plain"): {"classifier"},
    ("lsas", "scenes", "scenes-order0"): {"order"},
    ("lsas", "scenes-order0", "scenes-plain"): {"attention"},
    ("lsas", "demo", "demo-order0"): {"order"},
    ("lsas", "demo-order0", "demo-plain"): {"attention"},
    ("absvit", "scenes", "scenes-plain"): {"top_down"},
    ("absvit", "demo", "demo-vit"): {"top_down"},
}
"""Method, recipe, plain counterpart -> the fields of the method that make the difference."""


@pytest.mark.parametrize(("method", "recipe", "plain"), OWN)
def test_a_plain_counterpart_lacks_the_method_and_nothing_else(method: str, recipe: str, plain: str) -> None:
    found = get_description(method)
    differing = changed(found.named_recipe(recipe).recipe, found.named_recipe(plain).recipe)
    assert differing.keys() == OWN[method, recipe, plain]
    for name in differing:
        assert found.recipe_type.model_fields[name].json_schema_extra == {"panel": "Method"}, name


def test_every_plain_recipe_is_the_counterpart_of_one() -> None:
    plain = [
        (name, recipe) for name in METHODS for recipe in get_description(name).recipes if recipe.endswith("-plain")
    ]
    assert plain
    assert {*plain} <= {(method, counterpart) for method, _, counterpart in OWN}


# The benchmark --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, contender in CONTENDERS.items() if contender.plain])
def test_a_contender_of_the_benchmark_and_its_plain_one_differ_in_the_method_alone(name: str) -> None:
    contender = CONTENDERS[name]
    plain = CONTENDERS[str(contender.plain)]
    assert contender.family == plain.family
    if contender.method == plain.method:
        assert (contender.method, contender.recipe, plain.recipe) in OWN
    else:
        assert shared(contender.method, contender.recipe) == shared(plain.method, plain.recipe)


def shared(method: str, recipe: str) -> dict[str, Any]:
    found = get_description(method).named_recipe(recipe).recipe
    return {name: getattr(found, name) for name in SHARED}


# Across methods -------------------------------------------------------------------------------------------------------

TRANSFORMERS = [("llb", "scenes"), ("absvit", "scenes"), ("csra", "scenes-vit")]
CONVOLUTIONAL = [("ida", "scenes"), ("csra", "scenes-plain")]


def schedule(method: str, recipe: str) -> list[dict[str, float]]:
    found = get_method(method)
    rates = found.schedule(found.named_recipe(recipe).recipe, steps_per_epoch=46)
    return [rates(step) for step in range(0, 600, 7)]


def trained_images(method: str, recipe: str, index: Index) -> list[torch.Tensor]:
    """Training images of several epochs, as a run with one seed sees them."""
    found = get_method(method)
    dataset = found.open_dataset(found.named_recipe(recipe).recipe, index, train=True)
    return [dataset[position, epoch]["image"] for position in range(3) for epoch in range(2)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = tmp_path_factory.mktemp("scenes")
    few = ["--size", 48, "--train", 3, "--eval", 1]
    attnbias("prepare-data", "demo", "--root", root, *few, expect=0)
    return open_split("demo", "train", root)


@pytest.mark.parametrize("family", [[("absvit", "scenes-plain"), *TRANSFORMERS], [("csra", "scenes"), *CONVOLUTIONAL]])
def test_methods_of_one_family_train_on_the_same_images_at_the_same_rates(
    family: list[tuple[str, str]], scenes: Index
) -> None:
    first, *others = family
    images = trained_images(*first, scenes)
    assert not torch.equal(images[0], images[1]), "nothing is augmented"
    for other in others:
        assert shared(*other) == shared(*first)
        assert schedule(*other) == schedule(*first)
        for one, two in zip(images, trained_images(*other, scenes), strict=True):
            assert torch.equal(one, two), other


def outline(model: nn.Module) -> tuple[dict[str, torch.Size], set[tuple[int, float]]]:
    """Names and shapes of a ViT's body, and what these do not tell: heads, and the epsilon of norms."""
    body = {
        name: value.shape
        for name, value in model.state_dict().items()
        if name.startswith(("patch_embed", "cls_token", "pos_embed", "blocks"))
    }
    return body, {
        *((part.num_heads, part.scale) for part in model.modules() if isinstance(part, Attention)),
        *((len(part.normalized_shape), part.eps) for part in model.modules() if isinstance(part, nn.LayerNorm)),
    }


def test_transformers_of_the_benchmark_have_one_body() -> None:
    def built(method: str, recipe: str) -> Any:
        found = get_method(method)
        return found.build_model(found.named_recipe(recipe).recipe, 10, "multilabel")

    plain = built("absvit", "scenes-plain")
    own = outline(plain)
    assert outline(built("absvit", "scenes"))[0] == own[0]
    assert outline(built("llb", "scenes").backbone) == own
    assert outline(built("csra", "scenes-vit").backbone.model) == own
    llb = built("llb", "scenes").backbone
    assert llb.global_pool == plain.global_pool == "avg"
    assert {n: v.shape for n, v in llb.state_dict().items()} == {n: v.shape for n, v in plain.state_dict().items()}
