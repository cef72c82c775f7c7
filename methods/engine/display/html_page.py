"""What all pages are made of: one HTML file with its style, script, content and images inside. No torch, no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.reading import Json
from attnbias.methods.engine.display.overlay import COLOUR_TABLES, FOCUS
from attnbias.methods.engine.text import fill_template, html_text, json_in_script


def html_page(
    name: str, title: str, content: Json, parts: Mapping[str, str] | None = None, *, served: bool = False
) -> str:
    """Write page.html with NAME.html in it, page.css and NAME.css, page.js and NAME.js, and the content as JSON for the
    script.

    `parts` are HTML for further places of NAME.html. The script of a page that is `served` may ask its server.
    """
    assets = files(__package__)

    def read(file: str) -> str:
        return assets.joinpath(file).read_text(encoding="utf-8")

    shared = {
        "focus": FOCUS,
        "colours": {name: _base64(table().tobytes()) for name, table in COLOUR_TABLES.items()},
    }
    heading = html_text(title)
    places = {
        "title": heading,
        "policy": "; connect-src 'self'" if served else "",
        "body": fill_template(read(f"{name}.html"), {"title": heading, **(parts or {})}).rstrip("\n"),
        "style": read("page.css") + read(f"{name}.css"),
        "data": json_in_script(shared | dict(content)),
        "script": read("page.js") + read(f"{name}.js"),
    }
    return fill_template(read("page.html"), places)


def jpeg_address(image: Image.Image, quality: int = 88) -> str:
    """The image as a JPEG inside the page."""
    jpeg = io.BytesIO()
    image.convert("RGB").save(jpeg, "JPEG", quality=quality)
    return data_address("jpeg", jpeg.getvalue())


def data_address(kind: str, data: bytes) -> str:
    """An image's bytes as an address that needs no file."""
    return f"data:image/{kind};base64," + _base64(data)


def map_levels(values: NDArray[np.float32]) -> Json:
    """A map (h, w) in [0, 1] as 8-bit levels; the page resizes and colours it, so its size stays that of the grid."""
    levels = np.rint(255 * values.clip(0, 1)).astype(np.uint8)
    return {"height": levels.shape[0], "width": levels.shape[1], "data": _base64(levels.tobytes())}


def short(value: float) -> float:
    """The number with as many digits as a page needs."""
    return round(float(value), 5)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
