"""The built-in sets, made on this machine."""

from __future__ import annotations

from attnbias.data.info import DatasetInfo

_LICENCE = "digits CC BY 4.0 (UCI); photographs CC0, public domain or CC BY 2.0, named in the annotation files"

ENTRIES: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name="demo",
        title="Context-bias scenes",
        task="multilabel",
        classes=10,
        splits=("train", "val", "counter", "unbiased", "counter_context", "counter_cooccur", "swapped"),
        train="train",
        val="val",
        acquisition="generated",
        licence=_LICENCE,
        size="20 MB",
        prepare="attnbias.data.sets.demo:prepare",
    ),
    DatasetInfo(
        name="demo-single",
        title="Scenes with one digit",
        task="singlelabel",
        classes=10,
        splits=("train", "val", "counter", "unbiased"),
        train="train",
        val="val",
        acquisition="generated",
        licence=_LICENCE,
        size="15 MB",
        prepare="attnbias.data.sets.demo:prepare",
    ),
)
