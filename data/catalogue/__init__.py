"""Every dataset that the program knows by name: each file of this folder has its `ENTRIES`.

A new dataset is one file here: its entry, and beside it its `prepare` function (its type is `Preparer` in
data/sets/contract.py). Listings import it, so it imports no numpy, torch or Pillow at its head. Most of the sets that
are there already are read by the files of data/sets/, and their entries stand together by kind.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from attnbias.data.info import DatasetInfo

KINDS = ("generated", "multilabel", "singlelabel", "segmentation", "language", "robustness")
"""The files of several sets, in the order of listings; those of one set come behind them."""

_SINGLE = sorted({module.name for module in iter_modules(__path__)} - {*KINDS})

ENTRIES: tuple[DatasetInfo, ...] = tuple(
    entry for file in (*KINDS, *_SINGLE) for entry in import_module(f"{__name__}.{file}").ENTRIES
)
