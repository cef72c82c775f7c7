"""Good files of the kinds that the readers read, small: what the tests of damaged and hostile ones start from."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from attnbias.data.index import Index
from attnbias.weights.files import write_weights

# Images -------------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def colours(mode: str = "RGB") -> Image.Image:
    """An image of noise, 24 wide and 16 high."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees for viewing
    return encoded(colours(), "JPEG", exif=exif)


def palette_with_alpha() -> bytes:
    return encoded(colours("P"), "PNG", transparency=bytes(range(256)))


GOOD: dict[str, bytes] = {
    "CMYK": encoded(colours("CMYK"), "JPEG"),
    "grey": encoded(colours("L"), "PNG"),
    "grey with alpha": encoded(colours("LA"), "PNG"),
    "16 bit": encoded(Image.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24) * 170), "PNG"),
    "32 bit": encoded(Image.fromarray(np.arange(384, dtype=np.int32).reshape(16, 24) * 170), "TIFF"),
    "floating point": encoded(Image.fromarray(np.linspace(0, 255, 384, dtype=np.float32).reshape(16, 24)), "TIFF"),
    "black and white": encoded(colours("1"), "PNG"),
    "palette with alpha": palette_with_alpha(),
    "alpha": encoded(colours("RGBA"), "PNG"),
    "turned by EXIF": turned(),
    "animated": encoded(colours(), "GIF", save_all=True, append_images=[colours("L")]),
    "WebP": encoded(colours(), "WEBP"),
    "BMP": encoded(colours(), "BMP"),
}

# Annotations ----------------------------------------------------------------------------------------------------------


def annotations() -> dict[str, Any]:
    """A small COCO instances file."""
    return {
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 9, "height": 9} for number in (3, 1, 2)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 1.5, 2, 3], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 4, "bbox": [], "iscrowd": 1},
            {"id": 3, "image_id": 3, "category_id": 4},
        ],
    }


def check_index(index: Index) -> None:
    """What every reader promises of an index."""
    ids = [record.image_id for record in index.records]
    assert len(set(ids)) == len(ids)
    for record in index.records:
        assert isinstance(record.path, str)
        assert len(record.target) == len(index.classes)
        assert all(0 <= box.label < len(index.classes) for box in record.boxes)
        assert all(math.isfinite(value) for box in record.boxes for value in box[1:5])


# Weights --------------------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5))


def written(kind: str, folder: Path) -> Path:
    """A good weight file of some kind."""
    path, state = folder / kind, network().state_dict()
    if path.suffix == ".safetensors":
        write_weights(path, state, {"attnbias": json.dumps({"method": "csra"})})
    else:
        torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=not kind.startswith("old"))
    return path


KINDS = ["new.pth", "old.pth", "our.safetensors"]
