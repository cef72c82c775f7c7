"""The one error of the weights room: a weight file is missing, damaged, refused or does not fit."""

from __future__ import annotations


class WeightsError(Exception):
    """Weights missing or damaged. The message names the file, what was expected, and what to do about it."""
