"""CSRA's drawing of a class map, as its visualisation program does it (kind `vis`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnbias.methods.engine.display.overlay import published_overlay
from tests.parity.golden_case import Golden


def _vis(case: Golden) -> dict[str, Any]:
    case.config.only(colormap="OpenCV JET")
    class_map = case.input("cam")[case.config["class_index"]]
    height, width = case.config["size"]
    drawn = published_overlay(case.input("photo"), class_map, (height, width))
    return {"resized_mask": drawn.mask, "img_resized_rgb": drawn.image, "overlay_rgb": drawn.overlay}


RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {"vis": _vis}
