"""Where fetched weights are kept, and whether anything may be fetched at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """The folder of fetched weights: $ATTNBIAS_CACHE/weights, or the platform's place for what can be fetched again.

    A user without a home (of a container, say) keeps them below the current folder.
    """
    if named := os.environ.get("ATTNBIAS_CACHE"):
        return Path(named) / "weights"
    if sys.platform == "darwin":
        home = _home() / "Library" / "Caches"
    elif sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA", _home() / "AppData" / "Local"))
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache")
    return home / "attnbias" / "weights"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # neither $HOME nor an entry in the system's list of users
        return Path.cwd()


def offline() -> bool:
    """Whether nothing may be fetched: `attnbias --offline ...`, or $ATTNBIAS_OFFLINE is set (and is not 0)."""
    return os.environ.get("ATTNBIAS_OFFLINE", "0") not in ("", "0")
