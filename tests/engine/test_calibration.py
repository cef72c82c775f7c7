"""Figures of each class and calibration, against scikit-learn and sums by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as theirs

from attnbias.methods.engine.evaluation.classes import BINS, calibration, class_figures, confusion_matrix, most_confused
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import write_model

CLASSES = 5


def single(seed: int, samples: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Targets of four of five classes, and probabilities, some of them exactly at the edges of bins."""
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(CLASSES), samples).astype(np.float32)
    scores[:3] = np.eye(CLASSES, dtype=np.float32)[:3]
    scores[3] = (0.6, 0.4, 0, 0, 0)
    return rng.integers(0, CLASSES - 1, samples), scores


def ece_by_hand(confidence: np.ndarray, right: np.ndarray) -> float:
    total = 0.0
    for position in range(BINS):
        low, high = position / BINS, (position + 1) / BINS
        inside = (confidence > low) & (confidence <= high) | ((confidence == 0) & (position == 0))
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    return total / len(confidence)


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_each_class_are_scikit_learns(seed: int) -> None:
    targets, scores = single(seed)
    found, chosen = class_figures(targets, scores), scores.argmax(1)
    labels = list(range(CLASSES))
    assert (confusion_matrix(targets, scores) == theirs.confusion_matrix(targets, chosen, labels=labels)).all()
    precision, recall, f1, images = theirs.precision_recall_fscore_support(
        targets, chosen, labels=labels, zero_division=np.nan
    )
    assert found["images"] == images.tolist()
    for name, values in (("precision", precision), ("recall", recall), ("F1", f1)):
        known = images > 0 if name != "precision" else np.bincount(chosen, minlength=CLASSES) > 0
        assert [value is not None for value in found[name]] == known.tolist()
        assert np.allclose([v for v in found[name] if v is not None], 100 * values[known])
    for label in range(CLASSES - 1):
        expected = 100 * theirs.average_precision_score(targets == label, scores[:, label])
        assert found["AP"][label] == pytest.approx(expected)
    assert found["AP"][CLASSES - 1] is None


@pytest.mark.parametrize("seed", range(3))
def test_calibration_is_that_of_sums_by_hand(seed: int) -> None:
    targets, scores = single(seed)
    found = calibration(targets, scores)
    confidence, right = scores.astype(np.float64).max(1), scores.argmax(1) == targets
    assert found["ece"] == pytest.approx(ece_by_hand(confidence, right), abs=1e-9)
    assert found["brier"] == pytest.approx(((scores - np.eye(CLASSES)[targets]) ** 2).sum(1).mean(), rel=1e-6)
    assert sum(each["samples"] for each in found["bins"]) == found["samples"] == len(targets)
    assert (found["mean_score"], found["share_right"]) == pytest.approx((confidence.mean(), right.mean()))

    labels = np.random.default_rng(seed).integers(-1, 2, scores.shape)  # -1 is unknown
    found, known = calibration(labels, scores), labels >= 0
    assert found["brier"] == pytest.approx(theirs.brier_score_loss(labels[known], scores[known]), rel=1e-6)
    assert found["ece"] == pytest.approx(ece_by_hand(scores[known].astype(np.float64), labels[known] == 1), abs=1e-9)
    assert found["samples"] == known.sum()


def test_scores_that_are_probabilities_are_calibrated_and_sure_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((100_000, 1)).astype(np.float32)
    labels = (rng.random(scores.shape) < scores).astype(np.int64)
    assert calibration(labels, scores)["ece"] < 0.01
    sure = (scores > 0.5).astype(np.float32)
    assert calibration(labels, sure)["ece"] == pytest.approx(0.25, abs=0.01)


def test_pairs_that_are_confused_most_often_are_named_first() -> None:
    targets, chosen = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 1, 2, 2])
    found = class_figures(targets, np.eye(3, dtype=np.float32)[chosen])
    assert most_confused(found, ("a", "b", "c")) == ["a taken for b: 2 of 3", "b taken for c: 1 of 2"]


def test_val_shows_them_in_short_and_writes_all(tmp_path: Path) -> None:
    for number, name in enumerate(("ant", "bee", "cat") * 3):
        path = tmp_path / "zoo" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    attnbias("prepare-data", "zoo", cwd=tmp_path, expect=0)
    weights = write_model(tmp_path / "w.safetensors", "csra", ("ant", "bee", "cat"), image_size=32)
    asked = ("val", "csra", "--load-from", weights, "--dataset", "zoo", "--gpus", 0)
    common = ("--per-class", "--calibration", "--csv", "s.csv")
    shown = attnbias(*asked, *common, cwd=tmp_path, expect=0).out
    assert all(word in shown for word in ("calibration", "ece", "brier", "recall", "taken for"))
    (result,) = json.loads(attnbias(*asked, *common[:2], "--json", "-", cwd=tmp_path, expect=0).out)
    rows = [line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines()[1:]]
    scores = np.array([[float(value) for value in row[-3:]] for row in rows])
    targets = np.array([["ant", "bee", "cat"].index(row[0].split("/")[0]) for row in rows])
    assert (
        np.array(result["per_class"]["confusion"]).tolist()
        == theirs.confusion_matrix(targets, scores.argmax(1), labels=[0, 1, 2]).tolist()
    )
    brier = ((scores - np.eye(3)[targets]) ** 2).sum(1).mean()
    assert result["calibration"]["brier"] == pytest.approx(brier, abs=1e-5)
    assert len(result["calibration"]["bins"]) == BINS
