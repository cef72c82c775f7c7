"""One rule of orientation for each dataset: a paper's images as stored, one's own upright, by every command alike."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from attnbias.data.errors import DataError
from attnbias.data.images import read_header, read_image
from attnbias.data.index import Index
from attnbias.data.prepare import prepare
from attnbias.data.prepared import Prepared
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.survey import TINY
from attnbias.methods.engine.load import weights_metadata
from attnbias.methods.engine.registry import get_method
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias

CPU = ("--gpus", 0, "--threads", 1)
CLASSES = ("cat", "dog")


def noise(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels.repeat(8, 0).repeat(8, 1))


def save_turned(image: Image.Image, path: Path, orientation: int = 6) -> None:
    """Save the pixels as they are, with a tag that asks for turning them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)


def chunk_behind_pixels(path: Path) -> None:
    """Move a PNG's EXIF behind its pixels, where it may stand too."""
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = content.index(b"IEND") - 4
    path.write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "png, EXIF at the end"])
@pytest.mark.parametrize("orientation", range(10))
def test_upright_is_what_pillow_makes_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / f"image.{kind[:4].strip(',')}"
    save_turned(noise(), path, orientation)
    if "EXIF" in kind:
        chunk_behind_pixels(path)
    with Image.open(path) as opened:
        opened.load()
        expected = ImageOps.exif_transpose(opened).convert("RGB")
    upright, stored = read_image(path, "upright"), read_image(path)
    assert np.array_equal(np.asarray(upright), np.asarray(expected))
    header = read_header(path)
    assert (header.size("upright"), header.size("stored")) == (upright.size, stored.size)
    if kind != "tif":  # Pillow turns these by itself
        assert stored.size == (48, 32)


def test_damaged_exif_hides_no_image(tmp_path: Path) -> None:
    noise().save(tmp_path / "odd.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_image(tmp_path / "odd.jpg", "upright").size == read_header(tmp_path / "odd.jpg").stored == (48, 32)


def scores(table: Path) -> dict[str, list[float]]:
    rows = list(csv.DictReader(table.read_text().splitlines()))
    return {Path(row["path"]).name: [float(row.get(name) or row[f"score:{name}"]) for name in CLASSES] for row in rows}


def test_val_and_predict_agree_on_turned_images(tmp_path: Path) -> None:
    for number in range(4):
        save_turned(noise(seed=number), tmp_path / "phone" / f"{number}.jpg", 6 if number else 3)
    rows = ["path,labels", *(f"phone/{number}.jpg,{CLASSES[number % 2]}" for number in range(4))]
    (tmp_path / "phone.csv").write_text("\n".join(rows))
    root, weights = tmp_path / "root", tmp_path / "w.safetensors"
    done = attnbias("prepare-data", tmp_path / "phone.csv", "--root", root, expect=0)
    assert "images are read upright" in done.out
    assert "image turned upright, as its EXIF orientation says: 4" in done.out
    method = get_method("csra")
    recipe = method.recipes["demo"].recipe
    metadata = weights_metadata(method, recipe, CLASSES, "multilabel")
    write_weights(weights, method.build_model(recipe, 2, "multilabel").state_dict(), metadata)
    common = ("--load-from", weights, "--data-root", root, *CPU)
    attnbias("val", "csra", *common, "--dataset", "phone", "--csv", tmp_path / "val.csv", expect=0)
    attnbias("predict", *common, tmp_path / "phone", "--csv", tmp_path / "predict.csv", expect=0)
    measured, predicted = scores(tmp_path / "val.csv"), scores(tmp_path / "predict.csv")
    assert measured.keys() == predicted.keys()
    for name, values in measured.items():
        assert np.allclose(values, predicted[name], atol=2e-6)


def coco(folder: Path, box: tuple[float, float, float, float], **size: int) -> Path:
    """One turned image, stored 48 x 32 and seen 32 x 48, and its box."""
    save_turned(noise(), folder / "images" / "1.jpg")
    content: dict[str, Any] = {
        "categories": [{"id": 1, "name": "cat"}],
        "images": [{"id": 1, "file_name": "1.jpg", **size}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}],
    }
    (folder / "pets.json").write_text(json.dumps(content))
    return folder / "pets.json"


def test_boxes_of_stored_pixels_are_refused_for_upright_images(tmp_path: Path) -> None:
    inside_both, stored_alone, upright_alone = (1, 1, 20, 20), (10, 1, 36, 20), (1, 10, 20, 36)
    for box, size in ((stored_alone, {}), (inside_both, {"width": 48, "height": 32})):
        source = coco(tmp_path, box, **size)
        with pytest.raises(DataError, match=r"1 images fit them stored alone.*\(1\.jpg\).*--orientation stored"):
            prepare(str(source), root=tmp_path / "root", options=PrepareOptions(overwrite=True))
        options = PrepareOptions(settings={"orientation": "stored"}, overwrite=True)
        stored = prepare(str(source), root=tmp_path / "root", options=options)
        assert stored.indexes[0].orientation == "stored"
        assert list(stored.prepared.remarks) == ["image with an EXIF orientation that is not applied"]
    for box, size in ((upright_alone, {}), (inside_both, {}), (inside_both, {"width": 32, "height": 48})):
        options = PrepareOptions(overwrite=True)  # the source is the same, what it holds is not
        report = prepare(str(coco(tmp_path, box, **size)), root=tmp_path / "root", options=options)
        assert Index.read(report.folder / "index" / "train.json").orientation == "upright"
        assert Prepared.read(report.folder) == report.prepared
    remarks = prepare(str(coco(tmp_path, (1, 1, 90, 90))), root=tmp_path / "root", options=options).prepared.remarks
    assert remarks["image with a box that reaches out of it"] == {"count": 1, "first": ["1.jpg"]}
    shares = prepare(str(coco(tmp_path, (0.1, 0.1, 0.5, 0.5))), root=tmp_path / "root", options=options).prepared
    assert shares.remarks[TINY] == {"count": 1, "first": ["1.jpg"]}


def test_images_that_were_resized_after_they_were_annotated_are_named(tmp_path: Path) -> None:
    """Their boxes are of the size that the file states, and lie elsewhere in them."""
    for size, resized in (({"width": 64, "height": 96}, True), ({"width": 32, "height": 48}, False), ({}, False)):
        source = coco(tmp_path, (1, 1, 20, 20), **size)
        remarks = prepare(str(source), root=tmp_path / "root", options=PrepareOptions(overwrite=True)).prepared.remarks
        found = [reason for reason in remarks if reason.startswith("image of another size than its COCO file states")]
        assert bool(found) == resized


def test_label_maps_of_stored_pixels_are_refused_for_upright_images(tmp_path: Path) -> None:
    save_turned(noise(), tmp_path / "roads" / "images" / "1.jpg")
    labels = tmp_path / "roads" / "labels" / "1.png"
    labels.parent.mkdir()
    Image.new("L", (48, 32), 1).save(labels)
    with pytest.raises(DataError, match=r"differ in size: 32 x 48 and 48 x 32.*--orientation stored"):
        prepare(str(tmp_path / "roads"), root=tmp_path / "root")
    prepare(str(tmp_path / "roads"), root=tmp_path / "root", options=PrepareOptions(settings={"orientation": "stored"}))
    Image.new("L", (32, 48), 1).save(labels)
    prepare(str(tmp_path / "roads"), root=tmp_path / "root", options=PrepareOptions(overwrite=True))


def test_papers_sets_and_older_indexes_are_read_as_stored(tmp_path: Path) -> None:
    line = attnbias("prepare-data", "demo", "--orientation", "upright", expect=2).line
    assert "read as the papers' programs do" in line
    save_turned(noise(), tmp_path / "pets" / "cat" / "1.jpg")
    folder = prepare(str(tmp_path / "pets"), root=tmp_path / "root").folder
    path = folder / "index" / "train.json"
    assert ', "orientation": "upright"' in path.read_text()
    path.write_text(path.read_text().replace(', "orientation": "upright"', ""))
    assert Index.read(path).orientation == "stored"
