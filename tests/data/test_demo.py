"""The demo scenes: reproducible, the bias as strong as it says, and no digit's writing on both sides."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.prepare import prepare
from attnbias.data.registry import DATASETS, open_split, ready
from attnbias.data.sets import demo
from attnbias.data.sets.contract import PrepareOptions

SMALL = {"train": 120, "eval": 40}


def annotations(root: Path, split: str, name: str = "demo") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / name / "annotations" / f"instances_{split}.json").read_text())
    return content


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    prepare("demo", root=root, options=PrepareOptions(settings=SMALL))
    prepare("demo-single", root=root, options=PrepareOptions(settings={**SMALL, "preset": "easy"}))
    return root


def planned(split: str, settings: demo.Settings, name: str = "demo") -> Index:
    return demo._planned(DATASETS[name], split, settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_seed_gives_the_same_bytes_with_any_number_of_processes(root: Path, tmp_path: Path) -> None:
    prepare("demo", root=tmp_path, options=PrepareOptions(settings=SMALL, workers=2))
    assert contents(tmp_path / "demo") == contents(root / "demo")
    other = prepare("demo", root=tmp_path / "other", options=PrepareOptions(settings={**SMALL, "seed": 1}))
    assert annotations(tmp_path / "other", "val")["annotations"] != annotations(root, "val")["annotations"]
    assert other.prepared.settings["seed"] == 1


def test_more_images_leave_the_first_ones_as_they_were(root: Path, tmp_path: Path) -> None:
    prepare("demo", root=tmp_path, options=PrepareOptions(settings={"train": 1, "eval": 50}))
    few, many = annotations(root, "counter")["images"], annotations(tmp_path, "counter")["images"]
    assert many[: len(few)] == few


def test_no_writing_is_in_training_and_evaluation(root: Path) -> None:
    used = {
        split: {annotation["writing"] for annotation in annotations(root, split)["annotations"]}
        for split in DATASETS["demo"].splits
    }
    assert max(used["train"]) <= 1196
    assert all(min(writings) >= 1197 for split, writings in used.items() if split != "train")


def test_boxes_and_masks_are_those_of_the_digits(root: Path) -> None:
    """pycocotools reads the uncompressed masks; boxes are their bounds; no two digits share a pixel."""
    coco = COCO(root / "demo" / "annotations" / "instances_train.json")
    for image in coco.imgs:
        covered = np.zeros((64, 64), dtype=int)
        for annotation in coco.imgToAnns[image]:
            mask = coco.annToMask(annotation)
            rows, columns = mask.nonzero()
            left, top, width, height = annotation["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == mask.sum()
            covered += mask
        assert covered.max() == 1


def test_the_index_says_what_the_annotations_say(root: Path) -> None:
    index, content = open_split("demo", "counter", root), annotations(root, "counter")
    assert index.classes == tuple(f"digit_{digit}" for digit in range(10))
    for record, image in zip(index.records, content["images"], strict=True):
        shown = {one["category_id"] - 1 for one in content["annotations"] if one["image_id"] == image["id"]}
        assert record.target == tuple(int(digit in shown) for digit in range(10))
        assert record.group == image["context"]
        assert image["anchor"] in shown
        with Image.open(index.root / record.path) as original:
            assert (original.size, original.mode) == ((64, 64), "RGB")


@pytest.mark.parametrize(("preset", "own", "partner"), [("easy", 0.9, 0.6), ("medium", 0.95, 0.7), ("hard", 0.95, 0.8)])
def test_the_bias_is_as_strong_as_the_preset_says(preset: str, own: float, partner: float) -> None:
    settings = demo.Settings(preset=preset, train=4000, eval=4000)
    chosen = demo.PRESETS[preset]
    scenes = [
        demo.plan("train", chosen, False, demo._generator("train", number, settings))
        for number in range(settings.train)
    ]
    assert np.mean([scene.context == scene.anchor for scene in scenes]) == pytest.approx(own, abs=0.015)
    assert np.mean([scene.anchor ^ 1 in scene.digits for scene in scenes]) == pytest.approx(partner, abs=0.025)
    assert all(len(set(scene.digits)) == len(scene.digits) <= 2 + chosen.max_extra for scene in scenes)


@pytest.mark.parametrize("preset", demo.PRESETS)
def test_counter_splits_show_no_own_photograph_and_no_partners(preset: str) -> None:
    settings = demo.Settings(preset=preset, eval=1500)
    contexts = list(demo.CONTEXTS)
    for split in ("counter", "counter_context", "counter_cooccur"):
        for record in planned(split, settings).records:
            digits = [digit for digit in range(10) if record.target[digit]]
            if split != "counter_cooccur":
                assert contexts.index(record.group) not in digits
            if split != "counter_context":
                assert not any(digit ^ 1 in digits for digit in digits)


def test_swapped_shows_the_scenes_of_val_on_photographs_of_absent_digits(root: Path) -> None:
    """Digit for digit: labels, masks and writings are the same; pixels are too, but for the photograph around them."""
    val, swapped = (annotations(root, split) for split in ("val", "swapped"))
    assert swapped["annotations"] == val["annotations"]
    contexts = list(demo.CONTEXTS)
    for after in swapped["images"]:
        digits = {one["category_id"] - 1 for one in val["annotations"] if one["image_id"] == after["id"]}
        assert contexts.index(after["context"]) not in digits
    settings = demo.Settings(eval=1500)
    before, after = (planned(split, settings).records for split in ("val", "swapped"))
    for one, other in zip(before, after, strict=True):
        assert one.target == other.target
        assert one.group != other.group
    # Opaque ink hides most of the photograph, and nothing but the photograph is another one.
    solid = replace(demo.PRESETS["medium"], opacity=(1.0, 1.0), halo=0.0)
    drawn = [
        demo.render(demo.plan(split, solid, False, rng), np.arange(1197, 1797), solid, 64, rng)
        for split in ("val", "swapped")
        for rng in [demo._generator(split, 3, demo.Settings())]
    ]
    ink = np.any([placed.mask for placed in drawn[0][1]], axis=0)
    distance = np.abs(drawn[0][0].astype(int) - drawn[1][0]).mean(2)
    assert np.median(distance[ink]) < np.median(distance[~ink]) / 3


def test_a_split_that_a_set_of_before_does_not_have_is_drawn(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = DATASETS["demo"]
    monkeypatch.setattr("attnbias.data.prepare.DATASETS", {"demo": replace(now, splits=now.splits[:-1])})
    prepare("demo", root=tmp_path, options=PrepareOptions(settings=SMALL))
    train = tmp_path / "demo" / "annotations" / "instances_train.json"
    before = train.stat().st_mtime_ns
    monkeypatch.undo()
    prepare("demo", root=tmp_path, options=PrepareOptions(settings=SMALL))
    assert contents(tmp_path / "demo") == contents(root / "demo")
    assert train.stat().st_mtime_ns == before


@pytest.mark.parametrize("preset", demo.PRESETS)
def test_all_splits_have_the_same_number_of_digits_and_the_same_share_of_each(preset: str) -> None:
    settings = demo.Settings(preset=preset, train=2000, eval=2000)
    shares = {
        split: np.mean([record.target for record in planned(split, settings).records], axis=0)
        for split in DATASETS["demo"].splits
    }
    for share in shares.values():
        assert share.sum() == pytest.approx(shares["val"].sum(), abs=0.08)
        assert share == pytest.approx(np.full(10, share.mean()), abs=0.05)


def test_the_even_preset_gives_nothing_away_in_training() -> None:
    records = planned("train", demo.Settings(preset="even", train=6000)).records
    shown = np.array([record.target for record in records], dtype=float)
    contexts = np.array([[record.group == context for context in demo.CONTEXTS] for record in records], dtype=float)
    photographs, companions = (there.T @ shown / shown.sum(0) for there in (contexts, shown))  # (10, 10), given a digit
    assert photographs == pytest.approx(np.full((10, 10), 0.1), abs=0.04)
    others = companions[~np.eye(10, dtype=bool)]
    assert others == pytest.approx(np.full(90, others.mean()), abs=0.04)


def test_unbiased_draws_photographs_and_companions_evenly() -> None:
    settings = demo.Settings(eval=4000)
    records = planned("unbiased", settings).records
    assert all(300 < count < 500 for count in Counter(record.group for record in records).values())
    pairs = np.array([record.target for record in records], dtype=float)
    together = pairs.T @ pairs
    partners = np.mean([together[digit, digit ^ 1] for digit in range(10)])
    others = np.mean([together[a, b] for a in range(10) for b in range(10) if b not in (a, a ^ 1)])
    assert partners == pytest.approx(others, rel=0.15)


def test_single_has_one_labelled_digit_a_image(root: Path) -> None:
    for split in ("train", "val", "counter", "unbiased"):
        index = open_split("demo-single", split, root)
        assert index.task == "singlelabel"
        assert all(len(record.boxes) == 1 and record.boxes[0].label == record.target for record in index.records)
    own = [demo.CLASSES[list(demo.CONTEXTS).index(record.group or "")] for record in index.records]
    assert len(set(own)) > 5


def test_running_again_changes_nothing_and_other_settings_are_refused(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (root / "demo" / "images").rglob("*.jpg")}
    report = prepare("demo", root=root, options=PrepareOptions(settings=SMALL))
    assert {path: path.stat().st_mtime_ns for path in (root / "demo" / "images").rglob("*.jpg")} == before
    assert [len(index.records) for index in report.indexes] == [120, 40, 40, 40, 40, 40, 40]
    prepare("demo", root=root, options=PrepareOptions(settings=SMALL, splits=("val", "counter")))
    assert not (root / "demo" / "index" / "train.json").exists()
    prepare("demo", root=root, options=PrepareOptions(settings=SMALL))
    assert {path: path.stat().st_mtime_ns for path in (root / "demo" / "images").rglob("*.jpg")} == before
    with pytest.raises(DataError, match=r"was prepared with seed 0; add --overwrite"):
        prepare("demo", root=root, options=PrepareOptions(settings={**SMALL, "seed": 9}))


def test_overwrite_replaces_the_set_as_a_whole(tmp_path: Path) -> None:
    prepare("demo", root=tmp_path, options=PrepareOptions(settings={"train": 30, "eval": 4}))
    prepare("demo", root=tmp_path, options=PrepareOptions(settings={"train": 5, "eval": 3, "size": 96}, overwrite=True))
    images = sorted((tmp_path / "demo" / "images" / "train").iterdir())
    assert len(images) == 5
    with Image.open(images[0]) as image:
        assert image.size == (96, 96)


def test_a_split_that_there_is_not_replaces_nothing(tmp_path: Path) -> None:
    folder = prepare("demo", root=tmp_path, options=PrepareOptions(settings={"train": 5, "eval": 2})).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="no split 'vall'; found: train, val"):
        prepare("demo", root=tmp_path, options=PrepareOptions(splits=("vall",), overwrite=True))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_lost_image_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    settings = {"train": 5, "eval": 2}
    report = prepare("demo", root=tmp_path, options=PrepareOptions(settings=settings))
    lost = report.indexes[0].root / report.indexes[0].records[2].path
    lost.unlink()
    with pytest.raises(DataError, match=rf"1 of 5 images are missing: {lost}; run: .*prepare-data demo --overwrite"):
        prepare("demo", root=tmp_path, options=PrepareOptions(settings=settings))
    prepare("demo", root=tmp_path, options=PrepareOptions(settings=settings, overwrite=True))
    assert lost.is_file()


def test_an_interrupted_run_is_not_ready_and_is_made_again(tmp_path: Path) -> None:
    settings = {"train": 5, "eval": 2}

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("demo", root=tmp_path, options=PrepareOptions(settings=settings, progress=stop))
    assert not ready("demo", tmp_path)
    with pytest.raises(DataError, match=r"'demo' is not prepared .*attnbias prepare-data demo"):
        open_split("demo", "val", tmp_path)
    prepare("demo", root=tmp_path, options=PrepareOptions(settings=settings))
    assert ready("demo", tmp_path)


def test_a_dry_run_shows_the_labels_to_come_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    report = prepare("demo", root=tmp_path, options=PrepareOptions(settings=SMALL, dry_run=True))
    assert not any(tmp_path.iterdir())
    for index in report.indexes:
        made = open_split("demo", index.split, root)
        assert [(record.target, record.group) for record in index.records] == [
            (record.target, record.group) for record in made.records
        ]


def test_without_the_packages_one_line_says_what_to_install() -> None:
    with pytest.raises(DataError, match=r"pip install 'attnbias\[demo\]'"):
        demo._packaged("a_package_that_nobody_has", "x")


def test_training_without_the_bias_has_as_many_digits_and_the_photographs_of_unbiased_scenes() -> None:
    faint, even = (planned("train", demo.Settings(preset=name, train=4000)).records for name in ("faint", "faint-even"))
    own, counts = [], []
    for records in (faint, even):
        digits = np.array([record.target for record in records])
        context = np.array([list(demo.CONTEXTS).index(record.group or "") for record in records])
        own.append(digits[np.arange(len(digits)), context].mean())
        counts.append(np.bincount(digits.sum(1), minlength=4)[1:4] / len(digits))
    assert own[0] > 0.95
    assert own[1] == pytest.approx(counts[1] @ (1, 2, 3) / 10, abs=0.03)  # no more often than any other digit
    assert counts[1] == pytest.approx(counts[0], abs=0.03)
