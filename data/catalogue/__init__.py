"""The table of datasets: archives, sizes, checksums, licences, layouts and counts of each, in one file per kind.

A new dataset is one entry and one module with its `prepare` function (its type is `Preparer` in data/sets/contract.py).
"""

from __future__ import annotations

from attnbias.data.catalogue import generated, language, multilabel, robustness, segmentation, singlelabel
from attnbias.data.info import DatasetInfo

ENTRIES: tuple[DatasetInfo, ...] = (
    *generated.ENTRIES,
    *multilabel.ENTRIES,
    *singlelabel.ENTRIES,
    *segmentation.ENTRIES,
    *language.ENTRIES,
    *robustness.ENTRIES,
)
