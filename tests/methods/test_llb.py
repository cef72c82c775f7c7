"""LLB's promises: the backbone's own predictions at alpha 1, frozen training that stops at the tap, honest loading."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.models import VisionTransformer as TorchvisionTransformer

from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.metrics import singlelabel_measures
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.llb.attention import object_maps, survey_objects
from attnbias.methods.llb.metrics import agreement, alpha_sweep, object_measures
from attnbias.methods.llb.model import LLB
from attnbias.methods.llb.recipe import LLBRecipe
from attnbias.weights.errors import WeightsError
from tests.parity import golden

METHOD = get_method("llb")
CLASSES = 7
SMALL = LLBRecipe(size="demo", image_size=32, objects=12, num_nv_layers=3)


def build(recipe: LLBRecipe = SMALL, task: Any = "singlelabel", seed: int = 0, **changes: Any) -> LLB:
    torch.manual_seed(seed)
    model = METHOD.build_model(override(recipe, changes), CLASSES, task)
    assert isinstance(model, LLB)
    return model.eval()


def golden_weights(model: nn.Module, salt: int = 3) -> dict[str, Tensor]:
    layout = {name: (list(value.shape), "float32") for name, value in model.state_dict().items()}
    return {name: torch.from_numpy(value) for name, value in golden.state_dict(layout, salt).items()}


def make_images(count: int = 5, side: int = 32) -> Tensor:
    return torch.from_numpy(golden.normal("pictures", (count, 3, side, side), 1))


def train_once(model: nn.Module, recipe: LLBRecipe) -> dict[str, Tensor]:
    batch = {"image": make_images(4), "target": torch.tensor([0, 3, 3, 6])}
    terms = METHOD.loss(model.train(), batch, recipe, "singlelabel")
    terms["loss"].backward()
    return terms


# The backbone alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "pool"), [("augreg", "token"), ("mae", "avg")])
def test_alpha_one_is_exactly_timms_own_model(family: str, pool: str) -> None:
    stock = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=CLASSES, global_pool=pool).eval()
    weights = golden_weights(stock)
    stock.load_state_dict(weights)
    recipe = LLBRecipe(family=family, size="tiny", image_size=64, objects=16, num_nv_layers=2, alpha=1.0)
    model = build(recipe)
    METHOD.load_backbone(model, recipe, weights, Path("backbone.pth"))
    images = make_images(6, 64)
    with torch.no_grad():
        logits, ours = stock(images), METHOD.predict(model, images, "singlelabel")
        ranked = model(images).argsort(dim=-1)
    assert torch.equal(ours["visual"], logits.softmax(-1))
    assert torch.equal(ours["scores"], logits.softmax(-1))
    assert torch.equal(ranked, logits.argsort(dim=-1))
    assert not torch.allclose(ours["branch"], ours["visual"])


def test_torchvisions_port_of_swag_predicts_the_same() -> None:
    port = TorchvisionTransformer(32, 8, num_layers=4, num_heads=2, hidden_dim=128, mlp_dim=512, num_classes=CLASSES)
    weights = golden_weights(port)
    port.load_state_dict(weights)
    recipe = override(SMALL, {"family": "swag"})
    model = build(recipe)
    METHOD.load_backbone(model, recipe, weights, Path("vit_b_16_swag.pth"))
    with torch.no_grad():
        expected = port.eval()(make_images()).softmax(-1)
        torch.testing.assert_close(METHOD.predict(model, make_images(), "singlelabel")["visual"], expected)


def test_stock_names_of_timm_stay_timms() -> None:
    for name in ("vit_base_patch16_224", "vit_large_patch16_224"):
        assert timm.model_entrypoint(name).__module__.startswith("timm.")


# The mixture ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["singlelabel", "multilabel"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_logits_are_those_of_the_mixture(task: Any, alpha: float) -> None:
    model = build(task=task, alpha=alpha)
    with torch.no_grad():
        logits, found = model(make_images()), METHOD.predict(model, make_images(), task)
    activated = logits.sigmoid() if task == "multilabel" else logits.softmax(-1)
    torch.testing.assert_close(activated, found["scores"])
    torch.testing.assert_close(found["scores"], alpha * found["visual"] + (1 - alpha) * found["branch"])


def test_a_image_is_classified_alike_in_any_batch() -> None:
    with torch.no_grad():
        model = build(SMALL, family="swag")
        nn.init.normal_(model.branch.head.weight)
        together, alone = (
            METHOD.predict(model, images, "singlelabel") for images in (make_images(), make_images()[:1])
        )
        torch.testing.assert_close(together["branch"][:1], alone["branch"])
        legacy = build(SMALL, family="swag", legacy_swag_axis=True)
        nn.init.normal_(legacy.branch.head.weight)
        first, reordered = (
            METHOD.predict(legacy, x, "singlelabel")["branch"] for x in (make_images(), make_images().flip(0))
        )
    # As in the program, whatever comes first in a batch gets one constant vote.
    torch.testing.assert_close(first[0], reordered[0])
    assert not torch.allclose(first[-1], reordered[0])


# Training -------------------------------------------------------------------------------------------------------------


def count_pass(
    forward: dict[str, int], backward: dict[str, int], name: str, _: nn.Module, inputs: Any, output: Tensor
) -> None:
    forward[name] = forward.get(name, 0) + 1
    if output.requires_grad:
        output.register_hook(lambda _: backward.update({name: backward.get(name, 0) + 1}))


def count_passes(model: LLB, recipe: LLBRecipe) -> tuple[dict[str, int], dict[str, int]]:
    forward: dict[str, int] = {}
    backward: dict[str, int] = {}
    parts = {f"backbone.{i}": block for i, block in enumerate(model.backbone.blocks)}
    parts |= {f"branch.{i}": block for i, block in enumerate(model.branch.blocks)}
    parts["head"] = model.backbone.head
    for name, part in parts.items():
        part.register_forward_hook(partial(count_pass, forward, backward, name))
    train_once(model, recipe)
    return forward, backward


def test_frozen_training_stops_at_the_tapped_block_and_keeps_nothing() -> None:
    recipe = override(SMALL, {"target_layer": 2})
    model = build(recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tapped: list[Tensor] = []
    model.branch.blocks[0].register_forward_pre_hook(lambda _, inputs: tapped.append(inputs[0]))
    forward, backward = count_passes(model, recipe)
    branch = ["branch.0", "branch.1", "branch.2"]
    assert sorted(forward) == ["backbone.0", "backbone.1", *branch]
    assert sorted(backward) == branch
    assert tapped[0].grad_fn is None
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("branch.") for name in moved)


def test_cost_in_block_passes_at_base_size() -> None:
    # By the usual count: a backward pass costs two forward ones. Depths are those of the README's recipe.
    recipe = override(METHOD.named_recipe("imagenet-augreg-base").recipe, {"image_size": 32, "objects": 8})
    frozen_forward, frozen_backward = count_passes(build(recipe), recipe)
    free = override(recipe, {"freeze": False})
    free_forward, free_backward = count_passes(build(free), free)
    frozen = sum(frozen_forward.values()) + 2 * sum(frozen_backward.values())
    assert frozen / (3 * recipe.vit.depth) <= 0.85
    assert frozen / (sum(free_forward.values()) + 2 * sum(free_backward.values())) <= 0.62


@pytest.fixture
def one_process_group(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize("changes", [{"freeze": False}, {"freeze": False, "visual_weight": 1.0}, {}])
def test_several_processes_can_train_it(changes: dict[str, Any]) -> None:
    recipe = override(SMALL, {"target_layer": 2, **changes})
    wrapped = nn.parallel.DistributedDataParallel(build(recipe))
    for _ in range(2):  # DDP notices parameters without a gradient on the second step
        train_once(wrapped, recipe)
    assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)


def test_unfrozen_training_reaches_the_backbone_up_to_the_tap() -> None:
    recipe = override(SMALL, {"target_layer": 2, "freeze": False})
    model = build(recipe)
    train_once(model, recipe)
    trained = {name for name, p in model.backbone.named_parameters() if p.grad is not None}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.mlp.fc2.weight"} <= trained
    assert not any(name.startswith(("blocks.2.", "blocks.3.", "norm.", "head.")) for name in trained)


def test_multilabel_loss_leaves_unknown_labels_out() -> None:
    model = build(task="multilabel").train()
    known = torch.tensor([[1.0, 0, 0, 1, 0, 0, 1]]).repeat(2, 1)
    targets = torch.stack([known[0], torch.full((CLASSES,), -1.0)])
    losses = [
        METHOD.loss(model, {"image": make_images(2), "target": t}, SMALL, "multilabel")["classification"]
        for t in (targets, known)
    ]
    expected = nn.functional.binary_cross_entropy_with_logits(
        model(make_images(2), output="training").branch[0], known[0]
    )
    torch.testing.assert_close(losses[0], expected / 2)  # a mean over samples: the unknown one adds nothing
    assert losses[0] < losses[1]


def test_plain_cosine_falls_once_and_the_readmes_rises_again() -> None:
    recipe = override(SMALL, {"epochs": 40, "lr": 1e-4, "min_lr": 5e-5})
    rates = {
        name: [METHOD.schedule(override(recipe, {"scheduler": name}), 10)(10 * e + 9)["lr"] for e in range(40)]
        for name in ("oscillating", "cosine")
    }
    assert np.all(np.diff(rates["cosine"]) < 0)
    assert rates["cosine"][0] == 1
    assert [rates["oscillating"][epoch] for epoch in (0, 10, 20, 30)] == pytest.approx([1, 0.5, 1, 0.5])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"target_layer": 5}, "target_layer is 5, but ViT size demo has 4 blocks"),
        ({"target_layer": 0}, "target_layer"),
        ({"num_nv_layers": 1}, "num_nv_layers"),
        ({"image_size": 36}, "image_size is 36, not a multiple of the patch size 8"),
        ({"legacy_swag_axis": True}, "legacy_swag_axis is for family swag only"),
        ({"legacy_mae_weight": True, "backbone": "test_vit"}, "the family is that of test_vit"),
    ],
)
def test_impossible_recipes_are_one_line(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected) as error:
        override(SMALL, changes)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 120


# Loading --------------------------------------------------------------------------------------------------------------


def backbone_state(model: LLB) -> dict[str, Tensor]:
    return {name.removeprefix("backbone."): v for name, v in model.state_dict().items() if name.startswith("backbone.")}


def test_a_backbone_with_a_missing_key_is_refused_and_changes_nothing() -> None:
    recipe = override(SMALL, {"family": "mae"})
    model, donor = build(recipe), backbone_state(build(recipe, seed=1))
    before = model.state_dict()["backbone.pos_embed"].clone()
    pretraining = {name: v for name, v in donor.items() if not name.startswith(("fc_norm", "head"))}
    pretraining |= {"norm.weight": torch.ones(128), "norm.bias": torch.zeros(128)}
    with pytest.raises(WeightsError, match=r"backbone\.fc_norm\.bias is missing.*backbone\.head\.weight is missing"):
        METHOD.load_backbone(model, recipe, pretraining, Path("mae_pretrain.pth"))
    assert torch.equal(model.state_dict()["backbone.pos_embed"], before)


def test_a_backbone_of_another_shape_is_refused() -> None:
    donor = backbone_state(build(seed=1)) | {"head.weight": torch.zeros(9, 128), "head.bias": torch.zeros(9)}
    with pytest.raises(WeightsError, match=r"head\.weight has shape \(9, 128\), expected \(7, 128\)"):
        METHOD.load_backbone(build(), SMALL, donor, Path("other.pth"))


def test_what_became_of_a_backbone_file_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    donor = backbone_state(build(seed=1)) | {"decoder.weight": torch.zeros(1)}
    model = build()
    METHOD.load_backbone(model, SMALL, donor, Path("backbone.pth"))
    fresh = sum(1 for _ in model.branch.state_dict())
    assert f"backbone: {len(donor) - 1} loaded, {fresh} fresh, 1 ignored (decoder.weight)" in caplog.text


def test_our_own_names_need_no_translation() -> None:
    state = build().state_dict()
    assert METHOD.convert(state) is state


# Images -------------------------------------------------------------------------------------------------------------


def test_evaluation_transform_moves_boxes_and_training_draws_anew() -> None:
    original = Image.fromarray(golden.image("photo", 300, 400))
    recipe = METHOD.named_recipe("imagenet-augreg-base").recipe
    box = tv_tensors.BoundingBoxes([[100, 100, 150, 150]], format="XYXY", canvas_size=(300, 400))
    image, moved = METHOD.transform(recipe, train=False)(original, box)
    assert image.shape == (3, 224, 224)
    # The short side 300 becomes 256; then 224 of 341 x 256 pixels are cut out of the middle.
    assert moved[0].tolist() == pytest.approx([85.3 - 58.7, 85.3 - 16, 128 - 58.7, 128 - 16], abs=1)
    first, second = (METHOD.transform(recipe, train=True)(original) for _ in range(2))
    assert first.shape == (3, 224, 224)
    assert not torch.equal(first, second)


# Maps -----------------------------------------------------------------------------------------------------------------


def test_heads_and_objects_can_be_picked() -> None:
    model, one = build(), torch.tensor([0])
    heads = [METHOD.attention(model, make_images(), one, kind="visual", head=head) for head in (0, 1)]
    torch.testing.assert_close(sum(heads) / 2, METHOD.attention(model, make_images(), one, kind="visual"))
    shares = torch.cat([METHOD.attention(model, make_images(), one, kind="objects", head=o) for o in range(12)], dim=1)
    torch.testing.assert_close(shares.sum(1), torch.ones(5, 4, 4))
    found = object_maps(model, make_images())
    assert torch.equal(found.strongest, shares.argmax(1))
    torch.testing.assert_close(found.share, METHOD.attention(model, make_images(), one, kind="objects")[:, 0])
    with pytest.raises(UsageError, match="object 12 does not exist: there are 12"):
        METHOD.attention(model, make_images(), one, kind="objects", head=12)
    with pytest.raises(UsageError, match="legacy_swag_axis"):
        object_maps(build(family="swag", legacy_swag_axis=True), make_images())


def test_branch_attention_comes_from_the_branchs_last_block() -> None:
    model, one = build(), torch.tensor([0])
    before = METHOD.attention(model, make_images(), one, kind="branch")
    with torch.no_grad():
        model.branch.blocks[-1].attn.qkv.weight.zero_()
    after = METHOD.attention(model, make_images(), one, kind="branch")
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, torch.full_like(after, 1 / 17))  # 16 patches and the class token alike


def test_survey_counts_usage_and_finds_the_images_an_object_fills() -> None:
    model, images, ids = build(), make_images(5), torch.arange(100, 105)
    batches = [(images[:2], ids[:2]), (images[2:], ids[2:])]
    survey = survey_objects(model, batches, count=2)
    with torch.no_grad():
        shares = model.branch.assign(model.tokens(images, model.tapped_block)).shares
    torch.testing.assert_close(survey.usage, shares.mean((0, 1)))
    torch.testing.assert_close(METHOD.predict(model, images, "singlelabel")["objects"], shares.mean(1))
    best = shares.mean(1).topk(2, dim=0)  # (2, O)
    assert torch.equal(survey.images, ids[best.indices].T)
    torch.testing.assert_close(survey.filled, best.values.T)


# Measures -------------------------------------------------------------------------------------------------------------


def stored(count: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    visual, branch = (torch.from_numpy(golden.normal(n, (count, CLASSES), 2)).softmax(-1).numpy() for n in "ab")
    return golden.integers("labels", (count,), CLASSES, 2), visual, branch


def test_an_alpha_sweep_ends_at_either_branch() -> None:
    targets, visual, branch = stored()
    sweep = alpha_sweep(targets, visual, branch)
    assert list(sweep) == pytest.approx([step / 10 for step in range(11)])
    assert sweep[0.0] == singlelabel_measures(targets, branch)
    assert sweep[1.0] == singlelabel_measures(targets, visual)


def test_agreement_shares_add_up_to_each_branchs_accuracy() -> None:
    targets, visual, branch = stored()
    masks = agreement(targets, visual, branch)
    assert np.all(sum(mask.astype(int) for mask in masks.values()) == 1)
    right = 100 * (masks["both_right"] | masks["only_visual"]).mean()
    assert right == pytest.approx(singlelabel_measures(targets, visual)["top1"])


def test_object_measures_count_objects_in_use() -> None:
    even, one = np.full(8, 1 / 8, dtype=np.float32), np.eye(8, dtype=np.float32)[3]
    assert object_measures(even) == {"perplexity": pytest.approx(8), "dead": 0, "most_used": [0, 1, 2, 3, 4, 5, 6, 7]}
    assert object_measures(one) == {"perplexity": pytest.approx(1), "dead": 7, "most_used": [3, 0, 1, 2, 4, 5, 6, 7]}


@pytest.mark.parametrize(("task", "deciding"), [("singlelabel", "top1"), ("multilabel", "mAP")])
def test_one_evaluation_gives_every_figure(task: Any, deciding: str) -> None:
    model, images = build(task=task), make_images(20)
    with torch.no_grad():
        scores = {name: value.numpy() for name, value in METHOD.predict(model, images, task).items()}
    labels = golden.integers("labels", (20,), CLASSES)
    targets = labels if task == "singlelabel" else np.eye(CLASSES, dtype=np.int64)[labels]
    measures = METHOD.measure_all(SMALL, targets, scores, task)
    assert measures[f"alpha_1/{deciding}"] == measures[f"visual/{deciding}"]
    assert measures[f"alpha_0/{deciding}"] == measures[f"branch/{deciding}"]
    assert measures[f"alpha_0.8/{deciding}"] == pytest.approx(measures[deciding])
    assert 1 <= measures["objects/perplexity"] <= 12
    if task == "singlelabel":
        shares = [value for name, value in measures.items() if name.startswith("agreement/")]
        assert len(shares) == 4
        assert sum(shares) == pytest.approx(100)


def test_both_losses_of_the_mixture_stand_beside_the_accuracies() -> None:
    scores = np.array([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4]], dtype=np.float32)
    measures = METHOD.measure(SMALL, np.array([0, 3]), scores, "singlelabel")
    assert measures["nll"] == pytest.approx(-(np.log(0.5) + np.log(0.4)) / 2)
    expected = nn.functional.cross_entropy(torch.from_numpy(scores), torch.tensor([0, 3])).item()
    assert measures["program_loss"] == pytest.approx(expected)
    assert "top5" not in measures  # four classes: the program stops here with an error
