"""Where fetched weights are kept, and whether anything may be fetched at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """The folder of fetched weights: $ATTNBIAS_CACHE/weights, or the platform's place for what can be fetched again."""
    if named := os.environ.get("ATTNBIAS_CACHE"):
        return Path(named) / "weights"
    if sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "attnbias" / "weights"


def offline() -> bool:
    """Whether nothing may be fetched: `attnbias --offline ...`, or $ATTNBIAS_OFFLINE is set (and is not 0)."""
    return os.environ.get("ATTNBIAS_OFFLINE", "0") not in ("", "0")
