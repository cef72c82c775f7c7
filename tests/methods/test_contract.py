"""Every method keeps the contract; an entry is a name and what makes its recipe small."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from attnbias.data.index import Task
from attnbias.methods import METHODS
from attnbias.methods.absvit.vision_language.convert import publish
from attnbias.methods.engine.errors import UsageError
from tests.helpers import published_names
from tests.helpers.shallow import shallow_dinov3, shallow_registers
from tests.helpers.text_samples import samples
from tests.methods.contract import CLASSES, COUNT, Contract, Small


class TestCSRA(Contract):
    method = "csra"
    fields: ClassVar = {"backbone": "resnet18"}
    publish = staticmethod(published_names.csra)


class TestIDA(Contract):
    method = "ida"
    fields: ClassVar = {"backbone": "resnet18"}
    publish = staticmethod(published_names.ida)


class TestLSAS(Contract):
    method = "lsas"
    fields: ClassVar = {"network": "imagenet", "depth": 18, "image_size": 32}

    def image_size(self, side: int) -> tuple[int, int]:
        return side, side  # its native pipeline does not resize


class TestLLB(Contract):
    method = "llb"
    fields: ClassVar = {"image_size": 32, "objects": 12}
    publish = staticmethod(published_names.llb)
    of_the_whole_batch: ClassVar = dict.fromkeys(Contract.recipes, ("loss", "diversity"))  # how objects are used


class TestLLBOnRegisters(TestLLB):
    """No class token, a register, LayerScale, and a head that pools by attention; the backbone trains."""

    recipes: ClassVar = {"multilabel": "demo"}
    fields: ClassVar = {"image_size": 32, "objects": 12, "backbone": shallow_registers.__name__}
    publish = staticmethod(dict)  # our names: the program knows no such network

    def flags(self, small: Small) -> dict[str, Any]:
        return super().flags(small) | {"backbone": small.recipe.backbone}


class TestLLBOnDINOv3(TestLLBOnRegisters):
    """Rotary positions and more prefix tokens than patches; frozen, but for the classifier."""

    fields: ClassVar = {**TestLLBOnRegisters.fields, "backbone": shallow_dinov3.__name__, "freeze": True}


class TestAbSViT(Contract):
    method = "absvit"
    fields: ClassVar = {"image_size": 32}


class TestAbSViTOnRegisters(TestAbSViT):
    """No class token, a register, LayerScale, and a head that pools by attention."""

    recipes: ClassVar = {"multilabel": "demo"}
    fields: ClassVar = {"image_size": 32, "backbone": shallow_registers.__name__}

    def flags(self, small: Small) -> dict[str, Any]:
        return super().flags(small) | {"backbone": small.recipe.backbone}


class TestPlainViT(Contract):
    method = "absvit"
    recipes: ClassVar = {"multilabel": "demo-vit", "singlelabel": "demo-single-vit"}
    fields: ClassVar = {"image_size": 32}

    def kinds(self, small: Small) -> list[str]:
        return ["prompt", "rollout"]  # no second pass to steer, and none to come before it


class TestPlainViTWithConvolutions(Contract):
    method = "absvit"
    recipes: ClassVar = {"multilabel": "scenes-plain"}
    fields: ClassVar = {"image_size": 32}

    def kinds(self, small: Small) -> list[str]:
        return ["prompt", "rollout"]


class TestLLBWithConvolutions(Contract):
    method = "llb"
    recipes: ClassVar = {"multilabel": "scenes"}
    fields: ClassVar = {"image_size": 32, "objects": 12}
    publish = staticmethod(published_names.llb)
    of_the_whole_batch: ClassVar = {"multilabel": ("loss", "diversity")}


class TestPlain(Contract):
    method = "plain"
    fields: ClassVar = {"backbone": "resnet18"}

    def publish(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("network."): value for name, value in state.items()}


class TestSegmentation(Contract):
    method = "absvit-segmentation"
    recipes: ClassVar = {"segmentation": "mini"}
    graphs = ("segmentation",)
    fields: ClassVar = {"channels": 8, "aux_channels": 4, "head_dropout": 0.0}

    def batch(self, small: Small, count: int = COUNT) -> dict[str, Any]:
        labels = torch.randint(CLASSES, (count, 64, 64), generator=torch.Generator().manual_seed(0))
        return {**super().batch(small, count), "target": labels}

    def logits_shape(self, small: Small, count: int) -> tuple[int, ...]:
        return count, CLASSES, 8, 8


class TestVisionLanguage(Contract):
    method = "absvit-vision-language"
    recipes: ClassVar = {task: f"tiny-{task}" for task in ("vqa", "snli-ve", "nlvr2", "retrieval")}
    fields: ClassVar = {
        "image_size": 32,
        "fusion_width": 32,
        "fusion_layers": 1,
        "max_text_length": 10,
        "vocabulary": 50,
    }
    of_the_whole_batch: ClassVar = {"retrieval": ("loss", "matching")}  # half of a batch is shown false images
    graphs = ("vqa", "retrieval")
    exported_elsewhere = ("vqa",)  # tests/cli/test_export_tasks.py, of the same size
    publish = staticmethod(publish)

    @classmethod
    def classes(cls, task: Task) -> int:
        return 0 if task == "retrieval" else CLASSES

    def batch(self, small: Small, count: int = COUNT) -> dict[str, Any]:
        return samples(small.task, count)

    def logits(self, small: Small, batch: dict[str, Any]) -> Tensor:
        logits: Tensor = small.model(batch).logits
        return logits

    def logits_shape(self, small: Small, count: int) -> tuple[int, ...]:
        return (count, 4) if small.task == "retrieval" else (count, CLASSES)  # a true caption and three false ones

    def scores(self, small: Small, batch: dict[str, Any]) -> Tensor | None:
        scores: Tensor | None = small.method.text_scores(small.model, batch, small.task)
        return scores

    def test_every_map_is_of_the_asked_classes_and_not_negative(self, small: Small) -> None:
        with pytest.raises(UsageError, match="classes alone say nothing"):
            super().test_every_map_is_of_the_asked_classes_and_not_negative(small)


def test_every_method_has_an_entry() -> None:
    assert {entry.method for entry in Contract.__subclasses__()} == set(METHODS)
