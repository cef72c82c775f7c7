"""The built-in sets, made on this machine."""

from __future__ import annotations

from attnbias.data.info import DatasetInfo

_LICENCE = "digits CC BY 4.0 (UCI); photographs CC0, public domain or CC BY 2.0, named in the annotation files"

_SHOWN = {
    "val": "scenes like those of training, whose photograph gives the digit away",
    "counter": "scenes whose photograph belongs to a digit that is absent",
    "unbiased": "scenes on any photograph",
    "swapped": "val's scenes on photographs of digits that are absent",
}

ENTRIES: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name="demo",
        title="Context-bias scenes",
        task="multilabel",
        classes=10,
        splits=("train", "val", "counter", "unbiased", "counter_context", "counter_cooccur", "swapped"),
        train="train",
        val="val",
        split_words=_SHOWN,
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
        split_words=_SHOWN,
        acquisition="generated",
        licence=_LICENCE,
        size="15 MB",
        prepare="attnbias.data.sets.demo:prepare",
    ),
)
