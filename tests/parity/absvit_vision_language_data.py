"""The vision-language data side: answers, tables of the published writers, picture pipelines and RandAugment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from golden_case import Golden
from PIL import Image

from attnbias.data.transforms.language import OPERATIONS, apply_operation, language_transform


def _prep(case: Golden) -> dict[str, Any]:
    picture = Image.fromarray(case.input("photo"))
    return {"tensor": language_transform(case.config["key"], case.config["image_size"])(picture)}


def _randaug(case: Golden) -> dict[str, Any]:
    picture = Image.fromarray(case.input("photo"))
    return {name: np.array(apply_operation(picture, name, case.config["magnitude"])) for name in OPERATIONS}


RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "prep": _prep,
    "randaug": _randaug,
}
