"""AbSViT's promises: the second pass and its steering, cheap evaluation, the recipe, published weights, maps."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import re
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.mixup import Mixup
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchvision import tv_tensors

from attnbias.data.datasets import SampleKey, seeded
from attnbias.data.registry import open_split
from attnbias.methods.absvit import attention, convert
from attnbias.methods.absvit.augment import (
    batch_mixing,
    evaluation_transform,
    posterize,
    repeated_augmentation_order,
    training_transform,
)
from attnbias.methods.absvit.loss import drawn_classes, steered_loss
from attnbias.methods.absvit.method import METHOD
from attnbias.methods.absvit.model import AbSViT
from attnbias.methods.absvit.recipe import RECIPES, AbSViTRecipe
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.cost import measure_cost
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.losses import classification_loss
from attnbias.methods.engine.make_priors import VectorSums
from attnbias.methods.engine.recipe import override, parse
from attnbias.methods.engine.training.optim import build_optimizer
from attnbias.methods.engine.training.sampler import Plan, StepSampler, shuffled
from attnbias.methods.engine.types import Batch
from attnbias.weights.errors import WeightsError
from tests.helpers.command_line import attnbias

DEMO = RECIPES["demo-single"].recipe


def small(seed: int = 0, **changes: Any) -> AbSViT:
    torch.manual_seed(seed)
    model = METHOD.build_model(override(DEMO, {"image_size": 32, **changes}), 5, "singlelabel")
    # Fresh decoders say almost nothing, and a fresh residual stream looks the same everywhere.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif parameter.ndim == 1 and not parameter.eq(1).all():
                parameter.normal_(std=0.1)
    return model.eval()


def make_images(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


# The model ------------------------------------------------------------------------------------------------------------


def test_without_gradients_the_decoders_are_folded_and_nothing_else_changes() -> None:
    model, images = small(), make_images()
    with_gradients = model(images)
    with torch.no_grad():
        folded = model(images)
    torch.testing.assert_close(folded, with_gradients.detach(), rtol=1e-4, atol=1e-5)


def test_folding_is_no_cost_of_an_image() -> None:
    model = small()
    first = measure_cost(model, 32)
    assert measure_cost(model, 32) == first  # folded by now
    with torch.no_grad():
        model(make_images())
    assert measure_cost(model, 32) == first


def test_folded_decoders_follow_every_change_of_the_weights() -> None:
    model, other, images = small(), small(seed=5), make_images()

    def holds() -> bool:
        with torch.no_grad():
            folded = model(images)
        return torch.allclose(folded, model(images), rtol=1e-4, atol=1e-5)

    assert holds()
    model.load_state_dict(other.state_dict())
    assert holds()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(images).sum().backward()
    optimizer.step()
    assert holds()
    model.double()
    images = images.double()
    assert holds()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.decoders[0].linear2.weight.mul_(3)
    assert holds()
    assert not torch.allclose(twin(images), model(images))


def test_the_signal_reaches_only_values_and_their_bias_counts_twice() -> None:
    block, x = small().blocks[0], torch.randn(1, 5, 128)
    nothing = torch.zeros_like(x)
    assert not torch.allclose(block(x, topdown=nothing), block(x))
    with torch.no_grad():
        block.attn.qkv.bias[2 * 128 :] = 0
    torch.testing.assert_close(block(x, topdown=nothing), block(x))


def test_a_prior_is_the_prompt_classes_or_vectors_of_each_image() -> None:
    model, images = small(), make_images(3)
    classes = torch.tensor([4, 0, 2])
    with torch.no_grad():
        steered = model(images, prior=classes)
        assert not torch.allclose(steered, model(images))
        torch.testing.assert_close(model(images, prior=model.prompt), model(images))
        mixed = model(images, prior=torch.tensor([4, -1, 2]))
        torch.testing.assert_close(mixed[[0, 2]], steered[[0, 2]])
        torch.testing.assert_close(mixed[1], model(images)[1])
        torch.testing.assert_close(model(images, prior=model.head.weight[classes]), steered)
        one_by_one = [model(images[i : i + 1], prior=classes[i : i + 1]) for i in range(3)]
        torch.testing.assert_close(torch.cat(one_by_one), steered, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(images[:1], prior=torch.tensor(4)), steered[:1], rtol=1e-4, atol=1e-5)


def test_without_feedback_the_second_pass_still_counts_its_bias() -> None:
    model, images = small(), make_images()
    with torch.no_grad():
        first = model(images, passes=True).first
        assert not torch.allclose(model(images, gain=0.0), first)
        for block in model.blocks:
            block.attn.qkv.bias[2 * 128 :] = 0
        passes = model(images, gain=0.0, passes=True)
        torch.testing.assert_close(passes.second, passes.first, rtol=1e-4, atol=1e-5)


def test_reconstruction_trains_the_first_decoder_matrices_alone() -> None:
    model = small().train()
    model(make_images(), passes=True).errors.sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {f"decoders.{d}.linear.weight" for d in range(4)}


def test_the_criterion_is_both_passes_and_the_reconstruction() -> None:
    recipe = override(DEMO, {"image_size": 32})
    model = METHOD.build_model(recipe, 5, "singlelabel").train()
    terms = METHOD.loss(model, {"image": make_images(), "target": torch.tensor([1, 3])}, recipe, "singlelabel")
    expected = (terms["first"] + terms["second"]) / 2 + terms["reconstruction"]
    assert terms["loss"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("task", ["singlelabel", "multilabel"])
def test_a_share_of_the_second_passes_is_asked_for_a_class_and_learns_it_alone(
    task: Literal["singlelabel", "multilabel"],
) -> None:
    labels = torch.tensor([[1.0, 0, 0, 0, 1], [0, 1, 0, -1, 0]]).repeat(200, 1)
    target = labels if task == "multilabel" else labels.argmax(1)
    torch.manual_seed(0)
    asked = drawn_classes(target, 0.5)
    classes, counts = asked.unique(return_counts=True)
    assert classes.tolist() == ([-1, 0, 1, 4] if task == "multilabel" else [-1, 0, 1])  # never one that no image has
    assert abs(int(counts[0]) - 200) < 40
    some = asked >= 0
    own = labels[some].gather(1, asked[some][:, None]).mean()
    assert 0.6 < own < 0.9  # half of them are the image's own, and half of the others by chance
    assert (drawn_classes(target, 0.0) == -1).all()

    logits = torch.randn(400, 5, requires_grad=True)
    loss = steered_loss(logits, target, task, 0.0, asked)
    loss.backward()
    assert logits.grad is not None
    reached = logits.grad != 0
    assert (reached[some].sum(1) == 1).all()
    assert reached[some, asked[some]].all()
    nobody = torch.full_like(asked, -1)
    usual = classification_loss(logits, target, task)
    assert steered_loss(logits, target, task, 0.0, nobody).item() == pytest.approx(usual.item(), rel=1e-6)
    expected = -torch.where(labels[0, 4] == 1, logits[0, 4], -logits[0, 4]).sigmoid().log()
    alone = steered_loss(logits[:1], labels[:1], "multilabel", 0.0, torch.tensor([4]))
    assert alone.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_second_pass_is_asked_where_the_recipe_says_so() -> None:
    recipe = override(DEMO, {"image_size": 32, "steered_share": 1.0})
    batch: Batch = {"image": make_images(), "target": torch.tensor([1, 3])}
    model = small()
    torch.manual_seed(0)
    terms = METHOD.loss(model, batch, recipe, "singlelabel")
    torch.manual_seed(0)
    asked = drawn_classes(batch["target"], 1.0)
    passes = model(batch["image"], asked, passes=True)
    assert terms["second"].item() == pytest.approx(
        steered_loss(passes.second, batch["target"], "singlelabel", recipe.label_smoothing, asked).item()
    )


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, saving = small().train(), small().train()
    saving.set_grad_checkpointing(True)
    for model in (plain, saving):
        model(make_images(), passes=True).second.square().sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(saving.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-6)


def test_unknown_labels_are_out_of_the_multi_label_loss() -> None:
    recipe = override(DEMO, {"image_size": 32})
    model = small().eval()
    target = torch.tensor([[1.0, 0, -1, 0, 1], [0, 0, 1, -1, 0]])
    before = METHOD.loss(model, {"image": make_images(), "target": target}, recipe, "multilabel")["loss"]
    with torch.no_grad():
        known = target >= 0
        model.head.bias[4] += 0.0
        passes = model(make_images(), passes=True)
        for logits in (passes.first, passes.second):
            logits[~known] = 100.0
    from attnbias.methods.absvit.loss import two_pass_loss

    after = two_pass_loss(passes, target, "multilabel", recipe.label_smoothing, recipe.reconstruction_weight)["loss"]
    assert after.item() == pytest.approx(before.item(), rel=1e-5)


def test_the_plain_counterpart_is_timms_vit_of_the_same_size() -> None:
    recipe = override(DEMO, {"top_down": False})
    plain = METHOD.build_model(recipe, 10, "singlelabel")
    assert type(plain) is VisionTransformer
    extra = METHOD.build_model(DEMO, 10, "singlelabel").state_dict().keys() - plain.state_dict().keys()
    assert len(extra) == 1 + 2 * len(plain.blocks)
    terms = METHOD.loss(plain, {"image": make_images(2, 64), "target": torch.tensor([1, 3])}, recipe, "singlelabel")
    assert terms.keys() == {"loss"}


def test_training_logs_how_much_is_fed_back() -> None:
    model, recipe = small(), override(DEMO, {"image_size": 32})
    batch = {"image": make_images(), "target": torch.tensor([1, 3])}
    passes = model(batch["image"], passes=True)
    tokens = model.encode(model.patch_embed(batch["image"]))
    cosines = torch.nn.functional.cosine_similarity(tokens, model.prompt, dim=-1)
    terms = METHOD.loss(model, batch, recipe, "singlelabel")
    assert terms["mask"].item() == pytest.approx(cosines.clamp(min=0).mean().item(), rel=1e-5)
    assert not terms["mask"].requires_grad
    assert passes.mask.shape == (*tokens.shape[:2], 1)


# The recipe -----------------------------------------------------------------------------------------------------------


def test_the_default_recipe_is_the_readmes_command() -> None:
    recipe = METHOD.named_recipe(METHOD.default_recipe()).recipe
    assert (recipe.architecture, recipe.batch_size, recipe.epochs, recipe.warmup_epochs) == (
        "small_patch16",
        1024,
        300,
        10,
    )
    assert recipe.lr == pytest.approx(5e-4 * 1024 / 512)


def test_a_image_that_patches_do_not_tile_is_refused() -> None:
    with pytest.raises(UsageError, match="not a multiple of its patch size, 16"):
        override(AbSViTRecipe(), {"image_size": 230})


def test_the_programs_schedule_wastes_two_epochs_and_the_smooth_one_does_not() -> None:
    recipe = AbSViTRecipe(epochs=20, warmup_epochs=3)
    stepped = METHOD.schedule(recipe, 10)
    assert stepped(0)["lr"] == stepped(19)["lr"] == recipe.warmup_lr / recipe.lr
    assert stepped(199)["lr"] * recipe.lr > 1.2 * recipe.min_lr
    smooth = METHOD.schedule(override(recipe, {"scheduler": "smooth"}), 10)
    assert smooth(1)["lr"] > smooth(0)["lr"]
    assert smooth(200)["lr"] * recipe.lr == pytest.approx(recipe.min_lr)
    # A pure function: asking twice, or out of order, changes nothing.
    assert [stepped(step)["lr"] for step in (150, 3, 150)][::2] == [stepped(150)["lr"]] * 2


def test_a_small_set_has_steps_and_a_large_one_a_multiple_of_256() -> None:
    assert len(repeated_augmentation_order(100, 0)) == 100
    order = repeated_augmentation_order(1000, 4)
    assert len(order) == 768
    assert np.array_equal(order[::3], order[1::3])
    assert len(set(order.tolist())) == 256
    assert not np.array_equal(order, repeated_augmentation_order(1000, 5))
    assert not np.array_equal(order, repeated_augmentation_order(1000, 4, seed=1))
    assert METHOD.epoch_order(override(DEMO, {"repeats": 1}), 1000) is None
    epoch_order = METHOD.epoch_order(AbSViTRecipe(), 1000)
    assert epoch_order is not None
    assert np.array_equal(epoch_order(4), order)


@pytest.mark.parametrize("policy", ["rand-m10-inc1-n4", "v0"])
def test_the_strongest_policies_take_every_image(policy: str) -> None:
    """At magnitude 10 timm's policies keep 0 bits of a channel: a black image, which Pillow 13 refuses to make."""
    transform = training_transform(override(AbSViTRecipe(), {"image_size": 48, "rand_augment": policy}))
    image = Image.new("RGB", (48, 48), (200, 120, 40))
    with seeded(0):
        for _ in range(300):
            assert torch.isfinite(transform(image)).all()


def test_no_bits_are_a_black_image() -> None:
    image = Image.new("RGB", (4, 4), (200, 120, 40))
    assert posterize(image, 0).getextrema() == ((0, 0),) * 3
    assert posterize(image, 1).getpixel((0, 0)) == (128, 0, 0)


def test_the_views_of_a_image_are_augmented_differently() -> None:
    plan = Plan(512, 64, 2, partial(repeated_augmentation_order, 600), drop_last=True)
    epochs = [[key for step in range(8) for key in batch(plan, 8 * epoch + step)] for epoch in range(2)]
    for keys in epochs:
        assert len(set(keys)) == 512
        assert len({key.sample for key in keys}) == math.ceil(512 / 3)
    assert not set(epochs[0]) & set(epochs[1])
    plain = Plan(512, 64, 2, shuffled(512, 0))
    assert {key.epoch for key in batch(plain, 9)} == {1}


def batch(plan: Plan, step: int) -> list[SampleKey]:
    return next(iter(StepSampler(plan, 0, step)))


def test_mixing_follows_the_given_generator_alone() -> None:
    mixing = METHOD.batch_transform(AbSViTRecipe(), 5)
    assert mixing is not None
    targets = torch.tensor([0, 1, 2])  # an odd batch, too

    def mixed(seed: int) -> tuple[Tensor, Tensor]:
        return mixing(make_images(3), targets, np.random.default_rng(seed))

    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = mixed(3)
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    again, other = mixed(3), mixed(4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    torch.testing.assert_close(first[1].sum(1), torch.ones(3))


def test_mixing_of_pairs_and_of_single_images_is_timms() -> None:
    targets = torch.tensor([0, 1, 2, 3])
    for mode in ("pair", "elem"):
        ours, theirs = batch_mixing(AbSViTRecipe(mixup_mode=mode), 5), Mixup(0.8, 1.0, mode=mode, num_classes=5)
        assert ours is not None
        results = []
        for mixing in (ours, theirs):
            np.random.seed(2)
            results.append(mixing(make_images(4), targets))
        for mixed, expected in zip(*results, strict=True):
            torch.testing.assert_close(mixed, expected)
        assert len({tuple(row) for row in results[0][1].tolist()}) == 4  # each image has a share of its own
    odd = batch_mixing(AbSViTRecipe(mixup_mode="pair"), 5)
    assert odd is not None
    with pytest.raises(UsageError, match="--mixup-mode pair mixes two images at a time, and a batch has 3"):
        odd(make_images(3), targets[:3])


def test_a_range_of_sides_takes_the_place_of_cutmixs_draw() -> None:
    changes = {"image_size": 32, "mixup": 0.0, "cutmix": 0.0, "cutmix_range": [0.5, 0.75], "label_smoothing": 0.0}
    mixing = batch_mixing(parse(AbSViTRecipe, changes), 2)
    assert mixing is not None
    np.random.seed(0)
    for _ in range(20):
        images = torch.zeros(2, 3, 32, 32)
        images[1] = 1
        cut, rows = mixing(images, torch.tensor([0, 1]))
        torch.testing.assert_close(cut[:, 0].mean((1, 2)), rows[:, 1])
        box = cut[0, 0].any(0).sum(), cut[0, 0].any(1).sum()
        assert all(16 <= side < 24 for side in box)
    for wrong, words in (
        ([0.8, 0.2], "expected two shares"),
        ([0.5, 1.5], "expected two shares"),
        ([0.5, 0.51], "same number of pixels"),
    ):
        with pytest.raises(UsageError, match=words):
            parse(AbSViTRecipe, {**changes, "cutmix_range": wrong})


def test_adams_betas_and_epsilon_are_the_recipes() -> None:
    recipe = override(DEMO, {"betas": [0.8, 0.95], "eps": 1e-6})
    model = METHOD.build_model(recipe, 3, "singlelabel")
    for group in build_optimizer(METHOD.param_groups(model, recipe), recipe).param_groups:
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6)
    sgd = override(DEMO, {"optimizer": "sgd"})
    build_optimizer(METHOD.param_groups(model, sgd), sgd)
    with pytest.raises(UsageError, match="from 0 to below 1"):
        parse(AbSViTRecipe, {"betas": [0.9, 1.0]})


def test_colours_are_jittered_where_no_policy_is_and_erased_as_typed() -> None:
    alone = training_transform(AbSViTRecipe(rand_augment=None, color_jitter=0.4, erasing_mode="const", erasing_count=3))
    steps = {type(step).__name__: step for step in alone.transforms}  # type: ignore[attr-defined]
    assert "ColorJitter" in steps
    assert (steps["RandomErasing"].mode, steps["RandomErasing"].max_count) == ("const", 3)
    beside = training_transform(AbSViTRecipe(color_jitter=0.4))
    assert "ColorJitter" not in {type(step).__name__ for step in beside.transforms}  # type: ignore[attr-defined]


def test_mixing_keeps_unknown_labels_unknown() -> None:
    mixing = METHOD.batch_transform(AbSViTRecipe(), 3)
    assert mixing is not None
    targets = torch.tensor([[1.0, 0, 0], [0, -1, 1]])
    _, mixed = mixing(make_images(2), targets, np.random.default_rng(0))
    assert (mixed == -1).tolist() == [[False, True, False]] * 2
    assert ((mixed >= 0) | (mixed == -1)).all()


@pytest.mark.parametrize("size", [32, 64])
def test_transforms_give_normalised_images_of_the_asked_size(size: int) -> None:
    recipe = AbSViTRecipe(image_size=size)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8))
    with seeded(1):
        one = training_transform(recipe)(image)
    with seeded(1):
        assert torch.equal(one, training_transform(recipe)(image))
    assert one.shape == evaluation_transform(recipe)(image).shape == (3, size, size)


def test_a_squeezed_image_is_the_programs_demo_input() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8))
    transform = METHOD.transform(
        override(DEMO, {"pipeline": "deit", "resize": "squeeze", "image_size": 64}), train=False
    )
    box = tv_tensors.BoundingBoxes(torch.tensor([[0.0, 10.0, 40.0, 20.0]]), format="XYWH", canvas_size=(50, 80))
    seen, moved = transform(image, box)
    torch.testing.assert_close(seen, attention.demo_input(np.array(image), 64), atol=1e-6, rtol=0)
    assert np.allclose(moved.numpy(), [[0, 12.8, 32, 25.6]])


def test_the_evaluation_transform_moves_boxes() -> None:
    original = Image.new("RGB", (448, 224))
    boxes = tv_tensors.BoundingBoxes([[112.0, 0, 224, 224]], format="XYWH", canvas_size=(224, 448))
    image, moved = evaluation_transform(AbSViTRecipe())(original, boxes)
    assert image.shape == (3, 224, 224)
    assert moved.tolist() == [[0.0, 0.0, 224.0, 224.0]]


# Published weights ----------------------------------------------------------------------------------------------------


def published(folder: Path, recipe: AbSViTRecipe, classes: int = 10) -> tuple[Path, dict[str, Tensor]]:
    """A training dictionary as the program saves it, with its Namespace."""
    torch.manual_seed(2)
    state = METHOD.build_model(recipe, classes, "singlelabel").state_dict()
    average = {name: value * 1.5 for name, value in state.items()}
    path = folder / "published.pth"
    torch.save({"model": state, "model_ema": average, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, path)
    return path, state


def test_a_published_file_loads_by_itself_raw_or_averaged(tmp_path: Path) -> None:
    path, state = published(tmp_path, override(DEMO, {"image_size": 64}))
    raw = load_run("absvit", str(path), {"dataset": "demo-single"})
    ema = load_run("absvit", str(path), {"dataset": "demo-single"}, entry="ema")
    assert isinstance(raw.model, AbSViT)
    assert raw.recipe.architecture == "mini_patch8"
    assert torch.equal(raw.model.prompt, state["prompt"])
    torch.testing.assert_close(ema.model.state_dict()["prompt"], 1.5 * state["prompt"])


def test_the_plain_vit_is_told_from_absvit_by_its_weights(tmp_path: Path) -> None:
    path, _ = published(tmp_path, override(DEMO, {"top_down": False}))
    assert type(load_run("absvit", str(path), {"dataset": "demo-single"}).model) is VisionTransformer


def test_other_resolutions_resize_the_position_embedding(tmp_path: Path) -> None:
    path, state = published(tmp_path, DEMO)
    loaded = load_run("absvit", str(path), {"dataset": "demo-single", "image_size": 96})
    expected = convert.resize_pos_embed(state["pos_embed"], (12, 12))
    assert torch.equal(loaded.model.state_dict()["pos_embed"], expected)
    assert torch.equal(expected[:, 0], state["pos_embed"][:, 0])


def test_deits_weights_start_absvit_and_the_new_tensors_are_named(caplog: pytest.LogCaptureFixture) -> None:
    recipe = AbSViTRecipe(architecture="tiny_patch16", image_size=64)
    deit = METHOD.build_model(
        override(recipe, {"top_down": False, "image_size": 224}), 1000, "singlelabel"
    ).state_dict()
    model = METHOD.build_model(recipe, 1000, "singlelabel")
    with caplog.at_level(logging.WARNING):
        METHOD.load_backbone(model, recipe, deit, Path("deit.pth"))
    names = caplog.messages[0].split(": ")[1].split(", ")
    assert len(names) == 25
    assert {"prompt", "decoders.0.linear.weight", "decoders.11.linear2.weight"} <= set(names)
    assert torch.equal(model.blocks[3].attn.qkv.weight, deit["blocks.3.attn.qkv.weight"])
    assert torch.equal(model.head.weight, deit["head.weight"])
    other = METHOD.build_model(recipe, 7, "singlelabel")
    assert convert.start_from_deit(other, deit, Path("deit.pth"))[-2:] == ["head.weight", "head.bias"]


def test_deits_weights_do_not_start_a_model_of_other_patches() -> None:
    recipe = AbSViTRecipe(architecture="tiny_patch8_gap", image_size=64)
    source = AbSViTRecipe(architecture="tiny_patch16", top_down=False)
    deit = METHOD.build_model(source, 1000, "singlelabel").state_dict()
    with pytest.raises(WeightsError, match=r"patch_embed\.proj\.weight"):
        METHOD.load_backbone(METHOD.build_model(recipe, 1000, "singlelabel"), recipe, deit, Path("deit.pth"))


# Maps -----------------------------------------------------------------------------------------------------------------


def test_many_classes_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, classes = small(), make_images(2), torch.arange(5)
    whole = METHOD.attention(model, images, classes)
    monkeypatch.setattr(attention, "SEQUENCES", 3)
    torch.testing.assert_close(METHOD.attention(model, images, classes), whole, rtol=1e-3, atol=1e-4)


def test_object_vectors_find_the_objects_that_they_were_made_from() -> None:
    model, images = small(), make_images(6)
    masks = torch.zeros(6, 2, 4, 4)
    for image in range(6):
        masks[image, image % 2].view(-1)[image : image + 2] = 1
    sums, labels = VectorSums(3), torch.tensor([0, 1]).repeat(3)
    with torch.no_grad():
        tokens = METHOD.tokens(model, images)  # (6, 128, 4, 4)
        tokens += 5 * torch.einsum("bkhw,kc->bchw", masks, torch.eye(128)[:2])
        sums.add(tokens, masks[torch.arange(6), labels], labels)
        assert sums.seen == [0, 1]
        assert sums.counts.tolist() == [3, 3, 0]
        flat = torch.cat([torch.zeros(6, 1, 128), tokens.flatten(2).transpose(1, 2)], dim=1)
        first, second = (model.prior_mask(flat, vector)[:, 1:, 0].view(6, 4, 4) for vector in sums.vectors())
    torch.testing.assert_close(sums.vectors().sum(0), torch.zeros(128), rtol=0, atol=1e-4)
    assert (first * masks[:, 0]).sum() > 2 * (second * masks[:, 0]).sum()
    assert (second * masks[:, 1]).sum() > 2 * (first * masks[:, 1]).sum()


def test_rollout_is_a_share_of_attention() -> None:
    model = small()
    with torch.no_grad():
        shares = attention.rollout(model, model.patch_embed(make_images()))
    assert (shares.sum(1) < 1).all()  # the rest stays with the class token
    uniform = METHOD.attention(small(), make_images(), torch.tensor([0]), kind="rollout", head=2)
    assert uniform.shape == (2, 1, 4, 4)


def test_a_plain_vit_has_no_steered_map_and_says_which_it_has() -> None:
    plain = small(top_down=False)
    assert METHOD.attention(plain, make_images(), torch.tensor([1])).shape == (2, 1, 4, 4)
    with pytest.raises(UsageError, match="rollout"):
        METHOD.attention(plain, make_images(), torch.tensor([1]), kind="steered")
    with pytest.raises(UsageError, match="0 to 3"):
        METHOD.attention(plain, make_images(), torch.tensor([1]), kind="rollout", head=4)


def test_a_run_is_a_start_for_another_size_and_a_second_pass(
    demo_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    common = ("--data-root", demo_root, "--gpus", 0, "--threads", 1, "--steps", 1, "--batch-size", 8)
    plain = ("train", "absvit", "--recipe", "demo-single-vit", "--image-size", 32, "--out", tmp_path / "plain")
    attnbias(*plain, *common, expect=0)
    start = ("--backbone-weights", tmp_path / "plain", "--lr", 1e-9, "--out", tmp_path / "steered")
    attnbias("train", "absvit", "--recipe", "demo-single", *start, *common, expect=0)
    assert "9 tensors start fresh: prompt, decoders.0" in caplog.text
    before, after = (load_run("absvit", str(tmp_path / run), {}).model.state_dict() for run in ("plain", "steered"))
    assert after["pos_embed"].shape == (1, 65, 128)
    for name in before.keys() - {"pos_embed"}:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-5)


def test_a_prompt_can_start_from_the_mean_token_of_trained_weights(
    demo_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    common = ("--image-size", 32, "--data-root", demo_root, "--gpus", 0, "--steps", 1, "--batch-size", 8)
    attnbias("train", "absvit", "--recipe", "demo-single-vit", "--out", tmp_path / "plain", *common, expect=0)
    second = ("train", "absvit", "--recipe", "demo-single", "--lr", 1e-9, "--log-every", 1, *common)
    start, masks = ("--backbone-weights", tmp_path / "plain"), {}
    for way in ("random", "mean-token"):
        attnbias(*second, *start, "--prompt-start", way, "--out", tmp_path / way, expect=0)
        lines = map(json.loads, (tmp_path / way / "metrics.jsonl").read_text().splitlines())
        masks[way] = next(line["mask"] for line in lines if line["split"] == "train")
    loaded = load_run("absvit", str(tmp_path / "mean-token"), {})
    model, images = loaded.model, open_split("demo-single", "train", demo_root)
    shown = METHOD.open_dataset(loaded.recipe, images)
    every = torch.stack([shown[n]["image"] for n in np.linspace(0, len(shown) - 1, 64).round().astype(int).tolist()])
    with torch.no_grad():
        tokens = model.encode(model.patch_embed(every)).mean((0, 1))
    assert torch.nn.functional.cosine_similarity(tokens, model.prompt, dim=0) > 0.999
    said = re.search(r"of 64 training images: ([0-9.]+) of a token is fed back", caplog.text)
    assert said is not None
    assert float(said[1]) > 0.3 > masks["random"]
    assert masks["mean-token"] > 0.3
    refused = attnbias(*second, "--prompt-start", "mean-token", "--out", tmp_path / "none", expect=2)
    assert "this run starts from random weights" in refused.line
    assert not (tmp_path / "none").exists()
