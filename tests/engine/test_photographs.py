"""What the benchmark of photographs puts together: folds that part them, and pairs that labels alone name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from attnbias.methods.engine.stored_evaluations import Scores
from tests.benchmarks.photographs import FEW, FOLDS, cut, pairs_of, precisions


def test_every_photograph_is_held_out_once_and_never_trained_on_there(tmp_path: Path) -> None:
    content = {
        "categories": [{"id": 1, "name": "cat"}],
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(11)],
        "annotations": [{"id": number, "image_id": number % 11, "category_id": 1} for number in range(25)],
    }
    listed = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    listed.parent.mkdir(parents=True)
    listed.write_text(json.dumps(content))
    held_out: list[int] = []
    for fold in range(FOLDS):
        cut(tmp_path / "coco", tmp_path / str(fold), fold)
        splits = {}
        for split in ("train", "val"):
            own = json.loads((tmp_path / str(fold) / "annotations" / f"instances_{split}.json").read_text())
            splits[split] = {image["id"] for image in own["images"]}
            assert [a for a in content["annotations"] if a["image_id"] in splits[split]] == own["annotations"]
        assert splits["train"] | splits["val"] == {*range(11)}
        assert not splits["train"] & splits["val"]
        held_out += splits["val"]
    assert sorted(held_out) == [*range(11)]


def test_a_class_goes_with_what_most_of_its_images_show_where_enough_do_without() -> None:
    targets = np.zeros((40, 4), dtype=np.int64)
    targets[:12, 0] = 1
    targets[:7, 1] = 1  # of class 0, seven with class 1 and five without
    targets[2:7, 2] = 1  # five with class 2, which are fewer
    targets[:8, 3] = 1  # of class 0, only four without class 3
    assert FEW == 5
    pairs = pairs_of(targets)
    assert (0, 1) in pairs
    assert 1 not in dict(pairs), "class 1 never shows without class 0"
    scores = np.where(targets == 1, 0.9, 0.1).astype(np.float32)
    scores[7:12, 0] = 0.05  # class 0 is named by its company alone
    found = precisions(Scores(np.array([f"{n}.jpg" for n in range(40)]), targets, scores))
    assert found["AP with company"].value > found["AP without"].value
    gain = found["AP with company"].value - found["AP without"].value
    assert abs(found["company's gain"].value - gain) < 1e-9
