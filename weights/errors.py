"""The errors of the weights room: a weight file is missing, damaged, refused or does not fit."""

from __future__ import annotations

from attnbias.errors import AttnbiasError


class WeightsError(AttnbiasError):
    """Weights missing or damaged. The message names the file, what was expected, and what to do about it."""

    exit_code = 3


class OtherEntryError(WeightsError):
    """A whole weight file that does not have the weights that were asked for, raw or averaged, and holds the others."""
