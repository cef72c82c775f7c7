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
    name: str, title: str, content: Json, document: Mapping[str, str] | None = None, *, served: bool = False
) -> str:
    """Write page.html with NAME.html in it, page.css and NAME.css, page.js and NAME.js, and the content as JSON for the
    script.

    A `document` is read from top to bottom: it has document.html in the place of NAME.html, of whose places it holds
    the HTML, and document.css and .js before NAME's. The script of a page that is `served` may ask its server.
    """
    assets = files(__package__)

    def read(file: str) -> str:
        return assets.joinpath(file).read_text(encoding="utf-8")

    shared = {
        "focus": FOCUS,
        "colours": {name: _base64(table().tobytes()) for name, table in COLOUR_TABLES.items()},
    }
    heading = html_text(title)
    body = name if document is None else "document"
    before = ["page"] if document is None else ["page", "document"]
    places = {
        "title": heading,
        "policy": "; connect-src 'self'" if served else "",
        "body": fill_template(read(f"{body}.html"), {"title": heading, **(document or {})}).rstrip("\n"),
        "style": "".join(read(f"{part}.css") for part in (*before, name)),
        "data": json_in_script(shared | dict(content)),
        "script": "".join(read(f"{part}.js") for part in (*before, name)),
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
