"""Which paths weights can have, told without torch."""

from __future__ import annotations

from pathlib import Path

from attnbias.weights.errors import WeightsError


def check_name(path: Path) -> None:
    """Refuse a path that is not UTF-8: safetensors writes there and opens it no more, torch.export ends the process.

    Raises:
        WeightsError: it is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise WeightsError(f"{path}: weight files and their folders need names in UTF-8; rename it") from None
