"""A person's own images: a folder for each class, a table, a COCO file; prepared and trained on, no class typed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbias.methods.engine.load import load_run
from tests.helpers.command_line import attnbias

CLASSES = ("ant", "bee", "cat")
SPLITS = {"train": 4, "val": 2}
"""Images of each class."""

SMALL: tuple[Any, ...] = ("--recipe", "demo", "--epochs", 1, "--batch-size", 6, "--image-size", 32, "--gpus", 0)


def images(root: Path) -> list[tuple[str, str, Path]]:
    """Images of one hue a class, each of another size, at ROOT/SPLIT/CLASS/NUMBER.jpg: (split, class, path)."""
    made = []
    for (split, count), (hue, name) in product(SPLITS.items(), enumerate(CLASSES)):
        for number in range(count):
            path = root / split / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 90, (30 + number, 40, 3), np.uint8)
            pixels[..., hue] += 120
            Image.fromarray(pixels).save(path)
            made.append((split, name, path))
    return made


def folders(root: Path) -> Path:
    images(root / "insects")
    return root / "insects"


def table(root: Path, column: str = "label") -> Path:
    with (root / "insects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", column, "split"])
        writer.writerows([path.relative_to(root), name, split] for split, name, path in images(root / "files"))
    return root / "insects.csv"


def several_labels(root: Path) -> Path:
    return table(root, "labels")


def coco_file(root: Path) -> Path:
    made = images(root / "images")
    content = {
        "categories": [{"id": 10 * number, "name": name} for number, name in enumerate(CLASSES, start=1)],
        "images": [{"id": k, "file_name": str(p.relative_to(root / "images"))} for k, (_, _, p) in enumerate(made)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 10 * (CLASSES.index(name) + 1), "bbox": [1, 2, 20, 20]}
            for k, (_, name, _) in enumerate(made)
        ],
    }
    (root / "insects.json").write_text(json.dumps(content))
    return root / "insects.json"


@pytest.mark.parametrize(
    ("make", "method", "task"),
    [
        (folders, "lsas", "singlelabel"),
        (table, "csra", "singlelabel"),
        (several_labels, "csra", "multilabel"),
        (coco_file, "csra", "multilabel"),
    ],
)
def test_trained_and_scored_by_path_alone(make: Callable[[Path], Path], method: str, task: str, tmp_path: Path) -> None:
    source, root, out = make(tmp_path), tmp_path / "datasets", tmp_path / "run"
    told = attnbias("train", method, "--dataset", source, *SMALL, "--data-root", root, "--out", out, expect=3)
    assert f"run: attnbias prepare-data {source}" in told.line
    attnbias("prepare-data", source, "--root", root, "--verify", expect=0)
    attnbias("train", method, "--dataset", source, *SMALL, "--data-root", root, "--out", out, expect=0)
    loaded = load_run(method, str(out), {}, "cpu", data_root=root)
    assert (loaded.classes, loaded.task) == (CLASSES, task)
    done = attnbias("val", method, "--load-from", out, "--data-root", root, "--gpus", 0, "--json", "-", expect=0)
    (result,) = json.loads(done.out)
    assert result["dataset"] == "insects"
    assert result["samples"] == (3 * 6 if make is coco_file else 3 * SPLITS["val"])  # its only split plays both parts
