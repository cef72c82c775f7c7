"""Metrics, attention measures and Grad-CAM against the programs of others.

`pip install -e '.[oracles]'` makes all of it run; nothing else needs them. scikit-learn, SciPy and timm are
oracles in the tests of their subjects, torchattacks in test_attacks.py, pytorch-grad-cam in test_explainer_oracle.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnbias.methods.engine.bias.attention_bias import measure_maps
from attnbias.methods.engine.evaluation.classes import BINS, calibration
from attnbias.methods.engine.maps import explain
from attnbias.methods.engine.metrics import average_precision, multilabel_measures, singlelabel_measures
from attnbias.methods.engine.types import Layer


def oracle(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name}, the oracle, is not installed")


def test_multi_label_metrics_are_torchmetrics() -> None:
    theirs = oracle("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 6)) < 0.4).astype(np.int64)
    scores = np.round(rng.random(targets.shape), 2).astype(np.float32)
    scores[scores == 0.5] = 0.51  # which torchmetrics does not count as a prediction
    predicted, true = torch.from_numpy(scores), torch.from_numpy(targets)
    expected = theirs.multilabel_average_precision(predicted, true, num_labels=6, average="none")
    assert average_precision(targets, scores) == pytest.approx(expected.numpy(), abs=1e-5)
    found = multilabel_measures(targets, scores)
    for prefix, average in (("C", "macro"), ("O", "micro")):
        for letter, name in (("P", "precision"), ("R", "recall")):
            value = getattr(theirs, f"multilabel_{name}")(predicted, true, num_labels=6, average=average)
            assert found[prefix + letter] == pytest.approx(100 * value.item(), abs=1e-4)
    assert found["OF1"] == pytest.approx(
        100 * theirs.multilabel_f1_score(predicted, true, num_labels=6, average="micro").item(), abs=1e-4
    )


def test_single_label_accuracy_and_calibration_are_torchmetrics() -> None:
    theirs = oracle("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    targets, scores = rng.integers(0, 8, 300), rng.dirichlet(np.full(8, 0.3), 300).astype(np.float32)
    predicted, true = torch.from_numpy(scores), torch.from_numpy(targets)
    found = singlelabel_measures(targets, scores)
    for count in (1, 5):
        value = theirs.multiclass_accuracy(predicted, true, num_classes=8, top_k=count, average="micro")
        assert found[f"top{count}"] == pytest.approx(100 * value.item(), abs=1e-4)
    expected = theirs.multiclass_calibration_error(predicted, true, num_classes=8, n_bins=BINS, norm="l1")
    assert calibration(targets, scores)["ece"] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("measure", "metric"),
    [
        ("energy", "RelevanceMassAccuracy"),
        ("area_matched", "RelevanceRankAccuracy"),
        ("pointing_no_tolerance", "PointingGame"),
    ],
)
def test_attention_measures_are_those_of_quantus(measure: str, metric: str) -> None:
    theirs = oracle("quantus")
    rng = np.random.default_rng(0)
    maps = rng.random((20, 24, 24))
    masks = np.zeros(maps.shape, dtype=bool)
    for mask, (top, left), (height, width) in zip(
        masks, rng.integers(0, 12, (20, 2)), rng.integers(3, 12, (20, 2)), strict=True
    ):
        mask[top : top + height, left : left + width] = True
    scored = getattr(theirs, metric)(disable_warnings=True)(
        model=nn.Identity(),
        x_batch=np.zeros((20, 3, 24, 24), dtype=np.float32),
        y_batch=np.zeros(20, dtype=np.int64),
        a_batch=maps[:, None],
        s_batch=masks[:, None],
        device="cpu",
    )
    assert measure_maps(maps, masks)[measure] == pytest.approx(np.array(scored, dtype=np.float64), abs=1e-6)


def test_grad_cam_is_captums() -> None:
    captum = oracle("captum.attr")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2), nn.Flatten(), nn.LazyLinear(4)
    )
    images = torch.randn(3, 3, 13, 17)
    network(images)
    classes = torch.tensor([2, 0, 3])
    expected: Tensor = captum.LayerGradCam(network, network[2]).attribute(images, classes, relu_attributions=True)
    torch.testing.assert_close(explain("gradcam", network, images, classes[:, None], Layer(network[2])), expected)
