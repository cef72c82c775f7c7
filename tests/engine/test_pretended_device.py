"""Every method on a GPU that is not there (`helpers/pretended_device.py`): the CPU's numbers, nothing left on the CPU,
and no wait in what a training step does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.utils.backend_registration
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from attnbias.data.transforms.basic import ToNormalizedTensor, normalization
from attnbias.data.transforms.batched import BatchedTransform
from attnbias.methods.engine.batches import moved
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.attacks import ATTACKS, adversarial
from attnbias.methods.engine.maps import attention_maps
from attnbias.methods.engine.recipe import Recipe, override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.optim import apply_schedule, build_optimizer
from attnbias.methods.engine.training.setup import build_accelerator
from attnbias.methods.engine.training.train import _Run
from tests.helpers.pretended_device import NAME, Mismatch, OnDevice, Waits, counted, in_a_process, pretended

pytestmark = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch has no devices that are written in Python",
)

CLASSES, COUNT = 10, 4


class Case(NamedTuple):
    """A small model of a method."""

    method: str
    recipe: str = "demo"
    task: Any = "multilabel"
    fields: dict[str, Any] = {}  # noqa: RUF012


SINGLE = "demo-single", "singlelabel"
PIXELS = {"channels": 16, "aux_channels": 8}
CIFAR = {"depth": 8, "block": "basic"}
IMAGENET = {"depth": 18, "block": "basic", "image_size": 64}
FROZEN = {"freeze": True, "visual_weight": 0.0}

CASES = {
    "csra": Case("csra", fields={"backbone": "tiny"}),
    "ida": Case("ida", *SINGLE),
    "lsas": Case("lsas", "cifar10", "singlelabel", {**CIFAR, "attention": "se"}),
    "absvit": Case("absvit", *SINGLE, {"mixup": 0.8, "cutmix": 1.0}),
    "llb": Case("llb"),
    "segmentation": Case("absvit-segmentation", "mini", "segmentation", PIXELS),
}
TEXTS = {
    "retrieval": Case("absvit-vision-language", "tiny-retrieval", "retrieval"),
    "vqa": Case("absvit-vision-language", "tiny-vqa", "vqa", {"reconstruction_weight": 0.1}),
}
MORE = {
    "csra on a transformer": Case("csra", *SINGLE, {"backbone": "tiny_vit"}),
    "ida heavy": Case("ida", fields={"heavy": True}),
    "ida linear": Case("ida", fields={"classifier": "linear"}),
    "ida with an asymmetric loss": Case("ida", fields={"loss": "asl", "token_layout": "per_sample"}),
    "lsas in the demo's network": Case("lsas"),
    **{
        f"lsas with {kind}": Case("lsas", "cifar10", "singlelabel", {**CIFAR, "attention": kind})
        for kind in ("cbam", "eca", "srm")
    },
    "lsas with cutmix": Case("lsas", "imagenet", "singlelabel", {**IMAGENET, "attention": "se", "cutmix": 1.0}),
    "lsas with mixup": Case("lsas", "imagenet", "singlelabel", {**IMAGENET, "attention": "cbam", "mixup": 0.2}),
    "absvit multi-label": Case("absvit"),
    "a plain transformer": Case("absvit", "demo-single-vit", "singlelabel"),
    "llb frozen": Case("llb", *SINGLE, FROZEN),
    "llb mae frozen": Case("llb", fields={"family": "mae", **FROZEN}),
    "llb swag": Case("llb", *SINGLE, {"family": "swag"}),
    "segmentation top-down": Case("absvit-segmentation", "mini", "segmentation", {**PIXELS, "transfer": "top-down"}),
    "segmentation by a prompt": Case(
        "absvit-segmentation", "mini-vit", "segmentation", {**PIXELS, "transfer": "prompt", "prompt_tokens": 3}
    ),
    "segmentation by windows": Case("absvit-segmentation", "mini", "segmentation", {**PIXELS, "mode": "slide"}),
    "snli-ve": Case("absvit-vision-language", "tiny-snli-ve", "snli-ve"),
    "nlvr2": Case("absvit-vision-language", "tiny-nlvr2", "nlvr2"),
}
OUTPUTS = {"nlvr2": 2, "snli-ve": 3}


# What a process does --------------------------------------------------------------------------------------------------


def batch_of(recipe: Any, task: str) -> dict[str, Any]:
    """A batch of a task, the same each time."""
    draw = torch.Generator().manual_seed(1)
    size = recipe.image_size
    batch: dict[str, Any] = {"image": torch.randn(COUNT, 3, size, size, generator=draw), "index": torch.arange(COUNT)}
    if task == "multilabel":
        batch["target"] = (torch.rand(COUNT, CLASSES, generator=draw) < 0.3).float()
        batch["target"][0, 1] = -1  # unknown
    elif task == "segmentation":
        batch["target"] = torch.randint(0, CLASSES, (COUNT, size, size), generator=draw)
        batch["target"][:, :5] = 255
    elif task == "vqa":
        batch["target"] = torch.rand(COUNT, CLASSES, generator=draw)
    else:
        batch["target"] = torch.randint(0, OUTPUTS.get(task, CLASSES), (COUNT,), generator=draw)
    if hasattr(recipe, "vocabulary"):
        ids = torch.randint(3, 200, (COUNT, 12), generator=draw)
        mask = torch.ones_like(ids)
        ids[:, 8], ids[:, 9:], mask[:, 9:] = 2, 1, 0
        batch |= {"text_ids": ids, "text_mask": mask}
        if task == "nlvr2":
            batch["image2"] = batch["image"].flip(0)
        if task == "retrieval":
            batch |= {"false_image": batch["image"].flip(0), "false_text_ids": ids.flip(0)[:, None].repeat(1, 3, 1)}
            batch |= {"false_text_mask": mask[:, None].repeat(1, 3, 1)}
    return batch


def check(*cases: Case) -> None:
    """All that a run, `val` and `visualize` do with a model, on the device and beside the CPU."""
    for case in cases:
        method: Any = get_method(case.method)
        fields = {**case.fields, **({"vocabulary": 200} if "language" in case.method else {})}
        recipe = override(method.named_recipe(case.recipe).recipe, fields)
        torch.manual_seed(0)
        there = method.build_model(recipe, OUTPUTS.get(case.task, CLASSES), case.task).train()
        model = copy.deepcopy(there)
        batch = batch_of(recipe, case.task)
        with pretended() as device:
            model.to(device)
            on_device = moved(copy.deepcopy(batch), device)
            check_training(method, recipe, case, (there, batch), (model, on_device))
            model.eval()
            if "language" in case.method:
                check_answers_to_texts(method, recipe, model, on_device, batch)
            elif case.task == "segmentation":
                check_answers_of_pixels(method, recipe, model, on_device)
            else:
                check_classifier(method, recipe, case, model, on_device)


def check_training(
    method: Any,
    recipe: Recipe,
    case: Case,
    on_cpu: tuple[nn.Module, dict[str, Any]],
    on_device: tuple[nn.Module, dict[str, Any]],
) -> None:
    """Loss, gradients and updates are the CPU's, every parameter that learns is reached, and nothing waits."""
    (there, batch), (model, here) = on_cpu, on_device
    torch.manual_seed(7)
    expected = method.loss(there, batch, recipe, case.task)
    expected["loss"].backward()
    with counted() as waits:
        torch.manual_seed(7)
        terms = method.loss(model, here, recipe, case.task)
        terms["loss"].backward()
    assert not waits, waits
    assert all(isinstance(term, OnDevice) for term in terms.values())
    torch.testing.assert_close(terms["loss"].raw, expected["loss"])
    gradients = {name: p.grad for name, p in there.named_parameters() if p.grad is not None}
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad.raw, gradients[name], rtol=1e-3, atol=1e-5, msg=name)  # type: ignore[union-attr]
            parameter.grad.raw.copy_(gradients[name])  # type: ignore[union-attr] # Adam would make much of what rounds

    for fused in (False, True):
        pairs = []
        for each in (there, model):
            pairs.append((each, build_optimizer(method.param_groups(each, recipe), recipe, fused=fused)))
            apply_schedule(pairs[-1][1], method.schedule(recipe, 10), 3)
        pairs[0][1].step()
        with counted() as waits:
            pairs[1][1].step()
        assert not waits, waits
        for (name, one), other in zip(there.named_parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(other.raw, one, msg=name)

    mix = method.batch_transform(recipe, CLASSES)
    if mix is not None:
        with counted() as waits:
            image, target = mix(here["image"].clone(), here["target"], np.random.default_rng(0))
            method.loss(model, {**here, "image": image, "target": target}, recipe, case.task)["loss"].backward()
        assert not waits, waits
    real = torch.Generator  # deepcopy knows no generator of this device; the average does not draw
    with patch.object(torch, "Generator", lambda device=None: real()):
        average = ModelEmaV3(model, decay=0.9)
    with counted() as waits:
        average.update(model)
    assert not waits, waits


def check_classifier(method: Any, recipe: Recipe, case: Case, model: nn.Module, batch: dict[str, Any]) -> None:
    """Scores, maps, panels and attacks."""
    images = batch["image"]
    with torch.no_grad():
        with counted() as waits:
            scores = method.predict(model, images, case.task)
        assert not waits, waits
        assert all(isinstance(values, OnDevice) for values in scores.values())
        check_maps(method, model, images)
        if case.method == "lsas":
            method.panels(model, images)
        mean, std = normalization(recipe.normalize)
        for attack in ATTACKS.values():
            changed = adversarial(model, images, batch["target"], attack, mean, std, task=case.task)
            assert isinstance(changed, OnDevice)


def check_maps(method: Any, model: nn.Module, images: Tensor) -> None:
    """Every kind of map, for classes on the host, on the device, and of all."""
    classes = torch.tensor([1, 3])
    for kind in (None, *method.maps, "gradcam"):
        try:
            for wanted in (classes, classes.to(images.device)):
                assert isinstance(attention_maps(method, model, images, wanted, kind), OnDevice), kind
            if not str(kind).startswith("gradcam"):
                assert isinstance(method.attention(model, images, None, kind=kind), OnDevice), kind
        except UsageError:
            assert kind is not None  # of the others, a network may not have all


def check_answers_of_pixels(method: Any, recipe: Any, model: nn.Module, batch: dict[str, Any]) -> None:
    """What an evaluation of labelled pixels counts, from two views of each image, and every kind of map."""

    class Dataset:
        class index:
            classes = range(CLASSES)

    seen = [[image, image[:, :40]] for image in batch["image"]]
    with torch.no_grad():
        for values in method.answer(model, {**batch, "image": seen}, Dataset, recipe).values():
            values.float().cpu().numpy()
        check_maps(method, model, batch["image"])


def check_answers_to_texts(
    method: Any, recipe: Any, model: nn.Module, batch: dict[str, Any], on_cpu: dict[str, Any]
) -> None:
    """What an evaluation of texts keeps, and every kind of map."""
    from attnbias.methods.absvit.vision_language.retrieval import score_pairs

    with torch.no_grad():
        if recipe.task == "retrieval":
            with counted() as waits:
                fits = score_pairs(model, batch["image"], on_cpu["text_ids"], on_cpu["text_mask"])  # type: ignore[arg-type]
            assert not waits, waits
            assert fits.cpu().shape == (COUNT, COUNT)
        else:
            for values in method.answer(model, batch, None, recipe).values():
                values.float().cpu().numpy()
        for kind in method.maps:
            assert torch.isfinite(method.text_attention(model, batch, kind=kind).cpu()).all(), kind


def try_the_device() -> None:
    """The device itself: what it refuses and what it counts."""
    with pretended() as device:
        here, there = torch.arange(4.0).to(device, non_blocking=True), torch.arange(4.0)
        for operation in (torch.add, torch.mul, torch.dot):
            with pytest.raises(Mismatch):
                operation(here, there)
        with pytest.raises((TypeError, RuntimeError)):
            here.numpy()
        assert (here + 1).sum().raw == 10
        assert (here * torch.tensor(2.0)).cpu().tolist() == [0, 2, 4, 6]  # numbers may come from the CPU
        with counted() as waits:
            here.sum().item()
            here[here > 1]
            torch.tensor([1.0], device=device)
            there.to(device)
            here.cpu()
            assert here.any()
            here.nonzero()
            there.to(device, non_blocking=True)
            here[torch.tensor([0, 1])]
    assert waits.total() == 7, waits
    assert all("test_pretended_device.py" in what for what in waits)


def batched_images() -> None:
    """The pipeline of small images, which runs on the device."""
    transform = BatchedTransform(ToNormalizedTensor((0.5,) * 3, (0.2,) * 3), 1, 32, 4, True)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    given = pixels, torch.arange(4), torch.zeros(4, dtype=torch.int64)
    with pretended() as device:
        there = [values.to(device, non_blocking=True) for values in given]
        with counted() as waits:
            result = transform(*there)
        assert not waits, waits
        assert torch.equal(result.cpu(), transform(*given))


def steps_of_the_engine(root: Path, out: Path) -> Waits:
    """One step of a run through Accelerate on the device; what it waited for."""
    method = get_method("csra")
    changes = {"image_size": 32, "batch_size": 12, "ema_decay": 0.9, "clip_grad": 1.0, "optimizer": "sgd"}
    recipe = override(method.named_recipe("demo").recipe, changes)
    request = TrainRequest(method="csra", recipe=recipe, out=out, data_root=root, gpus=1, device=NAME, workers=0)
    real = torch.Generator
    with patch.dict("os.environ", ACCELERATE_TORCH_DEVICE=NAME), pretended():
        run = _Run(request, build_accelerator(request), RunFolder(out), Control())
        with patch.object(torch, "Generator", lambda device=None: real()):
            run._prepare(run._open_folder())
        run.stepper.step(0)
        with counted() as waits:
            run.stepper.step(1)
        assert all(isinstance(parameter, OnDevice) for parameter in run.model.parameters())
        run.folder.close()
    return waits


# The tests ------------------------------------------------------------------------------------------------------------


def test_the_device_refuses_and_counts() -> None:
    in_a_process(try_the_device)


@pytest.mark.parametrize("name", list(CASES))
def test_a_method_runs_on_the_device(name: str) -> None:
    in_a_process(check, CASES[name])


def test_texts_and_images_run_on_the_device() -> None:
    pytest.importorskip("transformers")
    in_a_process(check, *TEXTS.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MORE))
def test_every_variant_runs_on_the_device(name: str) -> None:
    if "language" in MORE[name].method:
        pytest.importorskip("transformers")
    in_a_process(check, MORE[name])


def test_small_images_are_augmented_without_a_wait() -> None:
    in_a_process(batched_images)


def test_a_step_of_the_engine_waits_for_one_number(demo_root: Path, tmp_path: Path) -> None:
    """No copy is waited for: only whether the loss and the gradient were finite is read."""
    waits = in_a_process(steps_of_the_engine, demo_root, tmp_path / "run")
    (only,) = waits.elements()
    assert only.startswith("aten._local_scalar_dense at engine/training/step.py")
