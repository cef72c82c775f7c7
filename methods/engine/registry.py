"""Methods by name. Whose name the table in methods/__init__.py has is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from attnbias.methods import METHODS
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError, did_you_mean

if TYPE_CHECKING:  # it imports torch
    from attnbias.methods.engine.method import AnyMethod


def get_description(name: str) -> Description:
    """Return what is known of the method called `name`, without torch.

    Raises:
        UsageError: no method has this name; the nearest name is offered.
    """
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
