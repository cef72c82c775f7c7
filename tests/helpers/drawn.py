"""A set in COCO's layout, drawn on the spot: what photographs hold is in it, and every figure of it is known.

Images of many sizes, two of them without an object; objects from a few pixels to nearly the whole image, with polygons;
crowds with run lengths, one of them all that its image shows; two classes that always come together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attnbias.data.sets.demo import run_lengths

IMAGES = 40
SIZES = ((320, 240), (240, 320), (300, 90), (64, 64), (900, 600), (90, 260))
"""Widths and heights, in turn."""
CLASSES = ("person", "dog", "car", "cup", "kite", "couch", "remote")
EMPTY = (7, 23)
CROWD_ALONE = 13


def coco_categories() -> list[dict[str, Any]]:
    """The 80 categories of MS-COCO with their ids, as torchvision's detectors name them."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [{"id": number, "name": name} for number, name in enumerate(names) if name not in ("__background__", "N/A")]


def photograph(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Smooth waves in three colours, with noise."""
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [np.sin(rows / rng.uniform(5, 40)) * np.cos(columns / rng.uniform(5, 40)) for _ in range(3)]
    noisy = 110 + 50 * np.stack(waves, -1) + rng.normal(0, 5, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw_coco(folder: Path) -> Path:
    """Write images/train2017 and annotations/instances_train2017.json below a folder; return it."""
    rng = np.random.default_rng(0)
    categories = coco_categories()
    ids = {category["name"]: category["id"] for category in categories}
    originals = folder / "images" / "train2017"
    originals.mkdir(parents=True)
    images, annotations = [], []
    for position in range(IMAGES):
        size = SIZES[position % len(SIZES)]
        image = photograph(size, rng)
        name = f"{1000 - position:012}.jpg"
        for label in labels_of(position, rng):
            crowd = position % 8 == 5
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 1000 - position,
                    "category_id": ids[label],
                    **draw_object(image, CLASSES.index(label), crowd, rng),
                }
            )
        image.save(originals / name, quality=90)
        images.append({"id": 1000 - position, "file_name": name, "width": size[0], "height": size[1]})
    file = folder / "annotations" / "instances_train2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return folder


def labels_of(position: int, rng: np.random.Generator) -> list[str]:
    """What one image shows."""
    if position in EMPTY:
        return []
    if position == CROWD_ALONE:
        return ["person"]
    together = ["couch", "remote"] if position % 6 == 0 else []
    return together + [str(label) for label in rng.choice(CLASSES[:5], rng.integers(1, 4))]


def draw_object(image: Image.Image, label: int, crowd: bool, rng: np.random.Generator) -> dict[str, Any]:
    """Draw an ellipse of the class's colour, or a crowd of them; return what its annotation says of its place."""
    width, height = image.size
    share = rng.choice([0.04, 0.15, 0.4, 0.9])
    w, h = max(share * width, 3), max(share * height, 3)
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack([left + w / 2 * (1 + np.cos(angles)), top + h / 2 * (1 + np.sin(angles))], 1).round(1)
    seen = Image.new("1", image.size)
    ImageDraw.Draw(seen).polygon([(x, y) for x, y in outline.tolist()], fill=1)
    image.paste(tuple(np.array([(label * 97) % 256, (label * 57 + 80) % 256, 250 - label * 35]).tolist()), mask=seen)
    mask: NDArray[np.bool_] = np.asarray(seen, dtype=bool)
    runs = {"size": [height, width], "counts": run_lengths(mask)}
    return {
        "bbox": [round(float(left), 1), round(float(top), 1), round(float(w), 1), round(float(h), 1)],
        "area": int(mask.sum()),
        "iscrowd": int(crowd),
        "segmentation": runs if crowd else [outline.ravel().tolist()],
    }
