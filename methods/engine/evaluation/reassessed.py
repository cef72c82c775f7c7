"""`val --real-labels`: accuracy by ImageNet's reassessed labels (ReaL; Beyer et al., arXiv:2006.07159)."""

from __future__ import annotations

from collections.abc import Mapping

from attnbias.data.datasets import ImageDataset
from attnbias.data.sets.imagenet import real_labels
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.probe import Content, Measured, Probe
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.metrics import real_accuracy
from attnbias.methods.engine.requests import ValRequest


class ReassessedProbe(Probe):
    """Needs ImageNet's validation images: their names tell the labels."""

    name = "real"
    decimals = 2

    def wanted(self, request: ValRequest) -> bool:
        return request.real_labels

    def check(self, request: ValRequest, loaded: Loaded, dataset: ImageDataset) -> None:
        index = dataset.index
        if real_labels(index) is None:
            raise UsageError(
                f"--real-labels are of ImageNet's validation images (ILSVRC2012_val_00000001.JPEG ...), and "
                f"split '{index.split}' of dataset '{index.dataset}' holds others; name them with --dataset"
            )

    def measure(self, measured: Measured) -> Content:
        labels = real_labels(measured.dataset.index)
        assert labels is not None
        result = measured.evaluation
        return real_accuracy(result.scores["scores"], [labels[sample] for sample in result.ids])

    def heading(self, content: Content) -> str:
        return "ReaL labels"

    def figures(self, content: Content) -> Mapping[str, float]:
        return {name: content[name] for name in ("real_top1", "real_top5")}
