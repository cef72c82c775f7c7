"""Measures: held against scikit-learn and against definitions written out sample by sample."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from timm.data.real_labels import RealLabelsImagenet

from attnbias.cli.evaluation_tables import show_results
from attnbias.methods.engine.errors import RunError
from attnbias.methods.engine.metrics import (
    Rule,
    among_highest,
    average_precision,
    f1,
    keep_highest,
    multilabel_measures,
    real_accuracy,
    singlelabel_measures,
)

sizes = st.tuples(st.integers(1, 40), st.integers(1, 7), st.integers(0, 2**32 - 1))


def tie_free(samples: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(samples * classes).reshape(samples, classes).astype(np.float32) / (samples * classes)
    return rng.integers(0, 2, (samples, classes)), scores


def mean_precision(targets: list[int], scores: list[float]) -> float:
    """CSRA's definition, word by word, for one class."""
    ranked = [
        t for _, _, t in sorted((-s, position, t) for position, (s, t) in enumerate(zip(scores, targets, strict=True)))
    ]
    known = [t for t in ranked if t >= 0]
    precisions = [sum(known[: position + 1]) / (position + 1) for position, t in enumerate(known) if t == 1]
    return sum(precisions) / len(precisions) if precisions else float("nan")


def voc_area(targets: list[int], scores: list[float]) -> float:
    """All-point interpolation, as in the development kit of VOC 2010."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    hits = np.cumsum([targets[place] for place in order])
    recall = np.concatenate([[0], hits / hits[-1], [1]])
    precision = np.concatenate([[0], hits / np.arange(1, len(hits) + 1), [0]])
    for place in range(len(precision) - 2, -1, -1):
        precision[place] = max(precision[place], precision[place + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum())


@settings(deadline=None)
@given(sizes)
def test_average_precision_is_sklearns_where_nothing_ties(size: tuple[int, int, int]) -> None:
    targets, scores = tie_free(*size)
    for ours, truth, score in zip(average_precision(targets, scores), targets.T, scores.T, strict=True):
        if truth.any():
            assert ours == pytest.approx(average_precision_score(truth, score), abs=1e-12)
        else:
            assert np.isnan(ours)


@settings(deadline=None)
@given(sizes, st.sampled_from([np.float32, np.float64]))
def test_average_precision_with_ties_and_unknown_labels(size: tuple[int, int, int], dtype: type) -> None:
    samples, classes, seed = size
    rng = np.random.default_rng(seed)
    targets = rng.integers(-1, 2, (samples, classes))
    scores = rng.choice(np.array([-0.5, -0.0, 0.0, 0.25, 0.5, 1.0], dtype), (samples, classes))
    expected = [mean_precision(t.tolist(), s.tolist()) for t, s in zip(targets.T, scores.T, strict=True)]
    np.testing.assert_allclose(average_precision(targets, scores, "mean"), expected, atol=1e-12)


@settings(deadline=None)
@given(sizes, st.sampled_from([np.float32, np.float64]))
def test_equal_scores_are_taken_together_as_sklearn_does_whatever_the_order(
    size: tuple[int, int, int], dtype: type
) -> None:
    samples, classes, seed = size
    rng = np.random.default_rng(seed)
    targets = rng.integers(-1, 2, (samples, classes))
    scores = rng.choice(np.array([-0.5, -0.0, 0.0, 0.25, 0.5, 1.0], dtype), (samples, classes))
    found = multilabel_measures(targets, scores)
    ties = 0
    for ours, truth, score in zip(found["AP"], targets.T, scores.T, strict=True):
        truth, score = truth[truth >= 0], score[truth >= 0]
        ties += sum(
            any(score[i] == score[j] and truth[i] != truth[j] for j in range(len(truth))) for i in range(len(truth))
        )
        if truth.any():
            assert ours == pytest.approx(100 * average_precision_score(truth, score))
        else:
            assert ours is None
    assert found["ties"] == {"rule": "grouped", "scores": ties}
    order = rng.permutation(samples)
    assert multilabel_measures(targets[order], scores[order]) == found


def test_a_constant_score_has_the_share_of_positives_as_its_average_precision() -> None:
    targets = np.zeros((100, 1), np.int64)
    targets[:20] = 1
    scores = np.full((100, 1), 0.3, np.float32)
    assert average_precision(targets, scores) == average_precision(targets[::-1], scores) == pytest.approx(0.2)


@settings(deadline=None)
@given(sizes)
def test_interpolated_average_precision_is_the_voc_area(size: tuple[int, int, int]) -> None:
    targets, scores = tie_free(*size)
    targets[0] = 1
    expected = [voc_area(t.tolist(), s.tolist()) for t, s in zip(targets.T, scores.T, strict=True)]
    np.testing.assert_allclose(average_precision(targets, scores, "interpolated"), expected, atol=1e-12)


def test_f1_is_sklearns_where_every_class_is_predicted_and_present() -> None:
    targets, scores = tie_free(200, 9, 4)
    ours = f1(targets, scores)
    precision, recall, _, _ = precision_recall_fscore_support(targets, scores >= 0.5, average="macro")
    overall = precision_recall_fscore_support(targets, scores >= 0.5, average="micro")[:3]
    expected = (precision, recall, 2 * precision * recall / (precision + recall), *overall)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_a_score_of_one_half_is_a_prediction() -> None:
    assert f1(np.array([[1], [1]]), np.array([[0.5], [0.49999]], np.float32)).OR == 0.5


def test_an_unknown_label_is_dropped_or_counts_as_negative() -> None:
    targets, scores = np.array([[1], [-1]]), np.array([[0.9], [0.8]], np.float32)
    assert f1(targets, scores).OP == 1.0
    assert f1(targets, scores, "negative").OP == 0.5


def test_a_class_never_predicted_counts_as_predicted_once_in_the_overall_precision() -> None:
    assert f1(np.array([[1, 1]]), np.array([[0.9, 0.1]], np.float32)).OP == 0.5


@settings(deadline=None)
@given(sizes, st.sampled_from(["grouped", "mean", "interpolated"]))
def test_a_perfect_predictor_has_a_hundred_whichever_classes_occur(size: tuple[int, int, int], rule: Rule) -> None:
    samples, classes, seed = size
    targets = np.random.default_rng(seed).integers(-1, 2, (samples, classes))
    targets[:, ::3] = np.minimum(targets[:, ::3], 0)  # these never occur
    targets[0, 1:2] = 1
    found = multilabel_measures(targets, (targets == 1).astype(np.float32), rule=rule)
    for name in ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1"):
        assert found[name] == (100 if classes > 1 else None if name == "mAP" else 0), name


def test_a_prediction_of_a_class_that_never_occurs_counts_only_where_the_program_is_asked_for() -> None:
    targets, scores = np.array([[1, 0], [1, 0]]), np.array([[0.9, 0.8], [0.9, 0.1]], np.float32)
    assert f1(targets, scores) == (1, 1, 1, 1, 1, 1)
    counted = f1(targets, scores, absent="count")
    assert (counted.CP, counted.OP, counted.CR) == (0.5, 2 / 3, 1)


def test_classes_without_positives_are_named_and_left_out_of_the_mean() -> None:
    found = multilabel_measures(np.array([[1, 0], [0, -1]]), np.array([[0.9, 0.2], [0.1, 0.3]], np.float32))
    assert found["mAP"] == 100
    assert found["AP"] == [100, None]
    assert found["without_positives"] == [1]
    assert found["CR"] == 100


def test_nothing_predicted_and_nothing_true_gives_numbers() -> None:
    found = multilabel_measures(np.zeros((3, 2)), np.zeros((3, 2), np.float32))
    assert found["mAP"] is None
    assert found["CF1"] == found["OF1"] == found["OF1@3"] == 0


@given(sizes, st.integers(1, 4))
def test_the_kept_scores_are_the_first_of_a_stable_sort(size: tuple[int, int, int], count: int) -> None:
    samples, classes, seed = size
    scores = np.random.default_rng(seed).choice(np.array([0.1, 0.5, 0.9], np.float32), (samples, classes))
    kept = keep_highest(scores, count)
    for row, ours in zip(scores, kept, strict=True):
        positions = sorted(range(classes), key=lambda place: (-row[place], place))[:count]
        assert np.flatnonzero(ours).tolist() == sorted(positions)
        assert (ours[positions] == row[positions]).all()


def test_without_ties_the_order_of_the_samples_does_not_matter_to_the_last_digit() -> None:
    targets, scores = tie_free(60, 5, 1)
    order = np.random.default_rng(0).permutation(60)
    assert multilabel_measures(targets, scores) == multilabel_measures(targets[order], scores[order])


def test_the_highest_are_counted_from_the_first_class_and_clamp_to_the_number_of_classes() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]], np.float32)
    targets = np.array([1, 2, 1])
    assert among_highest(targets, scores, 1).tolist() == [True, False, False]  # among equal scores the first leads
    assert among_highest(targets, scores, 2).tolist() == [True, False, True]
    assert singlelabel_measures(targets, scores) == pytest.approx({"top1": 100 / 3})  # of three classes no top-5
    six = np.pad(scores, ((0, 0), (0, 3)))
    assert singlelabel_measures(targets, six) == pytest.approx({"top1": 100 / 3, "top5": 100})


def test_real_accuracy_is_timms_and_leaves_out_images_without_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = [rng.choice(20, size, replace=False).tolist() for size in rng.integers(0, 4, 200)]
    scores = rng.random((200, 20), np.float32)
    file = tmp_path / "real.json"
    file.write_text(json.dumps(labels))
    theirs = RealLabelsImagenet([f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 201)], file)
    theirs.add_result(torch.from_numpy(scores))
    expected = {f"real_top{k}": value for k, value in theirs.get_accuracy().items()}
    assert real_accuracy(scores, labels) == pytest.approx({"samples": sum(map(bool, labels)), **expected})
    assert 0 < expected["real_top1"] < expected["real_top5"] < 100


@pytest.mark.parametrize("measure", [multilabel_measures, singlelabel_measures])
def test_scores_that_are_not_finite_are_refused(measure: object) -> None:
    scores = np.array([[0.5, np.nan]], np.float32)
    targets = np.array([[1, 0]]) if measure is multilabel_measures else np.array([0])
    with pytest.raises(RunError, match="NaN"):
        measure(targets, scores)


@pytest.mark.parametrize(
    ("rule", "words"), [("mean", "the order of the samples decides"), ("grouped", "equal scores are taken together")]
)
def test_val_says_how_many_scores_tie_and_what_becomes_of_them(
    rule: Rule, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = np.array([[0.5], [0.5], [0.5], [0.1], [0.1]], np.float32)
    found = multilabel_measures(np.array([[1], [0], [-1], [0], [0]]), scores, rule=rule)
    result = {
        "source": "x",
        "load_from": "x",
        "split": "val",
        "samples": 5,
        "skipped": {},
        "decode": "exact",
        "amp": "no",
        "rules": [],
    }
    show_results([{**result, "classes": ["a"], "measures": found}], per_class=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert "val: AP: 2 scores equal one of the other label in their class" in printed
    assert words in printed
