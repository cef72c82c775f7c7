"""The one error of the data room: something on disk, or on its way there, is missing or damaged."""

from __future__ import annotations

from attnbias.errors import AttnbiasError


class DataError(AttnbiasError):
    """Data missing or damaged. The message names the thing, what was expected, and the command that mends it."""

    exit_code = 3
