"""The table of methods. A method is one folder and one line here; it is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnbias.methods.engine.description import Description
    from attnbias.methods.engine.method import AnyMethod

METHODS: dict[str, str] = {
    "absvit": "attnbias.methods.absvit",
    "absvit-segmentation": "attnbias.methods.absvit.segmentation",
    "absvit-vision-language": "attnbias.methods.absvit.vision_language",
    "csra": "attnbias.methods.csra",
    "ida": "attnbias.methods.ida",
    "llb": "attnbias.methods.llb",
    "lsas": "attnbias.methods.lsas",
}

TASKS: dict[str, dict[str, str]] = {
    "absvit": {
        "classification": "absvit",
        "segmentation": "absvit-segmentation",
        "vqa": "absvit-vision-language",
        "snli-ve": "absvit-vision-language",
        "nlvr2": "absvit-vision-language",
        "retrieval": "absvit-vision-language",
    }
}
"""Papers with several tasks: what `--task` names -> the method that does it, which has a folder and a line above."""


def get_description(name: str) -> Description:
    """Return what is known of the method called `name`, without torch.

    Raises:
        UsageError: no method has this name; the nearest name is offered.
    """
    from attnbias.methods.engine.errors import UsageError, did_you_mean

    if name not in METHODS:
        raise UsageError(f"unknown method '{name}'{did_you_mean(name, METHODS)}; one of: {', '.join(METHODS)}")
    description: Description = import_module(METHODS[name]).DESCRIPTION
    return description


def get_method(name: str) -> AnyMethod:
    """Import and return the method called `name`.

    Raises:
        UsageError: as `get_description`.
    """
    get_description(name)
    method: AnyMethod = import_module(f"{METHODS[name]}.method").METHOD
    return method
