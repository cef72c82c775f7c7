"""Index files as CSRA's own programs write them, derived from our indexes, byte for byte.

prepare_coco.py, prepare_voc.py, prepare_wider.py (goldens csra/index_*): JSON arrays in json.dump's layout. The
catalogue says which datasets have them (`further_files`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.reading import Json

CSRA_COCO_CLASSES = 80
OFFICIAL_COCO = ["instances_train2014.json", "instances_val2014.json"]


def of_coco(indexes: Sequence[Index]) -> dict[str, str]:
    """The files of COCO 2014; none of other files in its layout, nor of label maps made of it."""
    named = [index.annotations for index in indexes if index.annotations and index.task == "multilabel"]
    if [path.name for path in named] != OFFICIAL_COCO:
        return {}
    train, val = indexes
    return csra_coco(train, val, str(named[0].parent.parent))


def of_voc(indexes: Sequence[Index]) -> dict[str, str]:
    """The files of VOC2007."""
    trainval, test = indexes
    return csra_voc(trainval, test, str(trainval.root.parent))


def of_wider(indexes: Sequence[Index]) -> dict[str, str]:
    """The files of WIDER-Attribute."""
    trainval, test = indexes
    return csra_wider(trainval, test, str(trainval.root))


def csra_coco(train: Index, val: Index, data_path: str) -> dict[str, str]:
    """CSRA's COCO files: images without annotation left out; always 80 labels.

    Args:
        train, val: read with `class_order="file"`.
        data_path: the dataset's folder, as it shall stand in front of each `img_path`.

    Returns:
        {file below the dataset's folder: its text}, as for the other sets below.
    """
    return {
        f"csra/{index.split}_coco2014.json": json.dumps(
            [
                {
                    "target": _eighty(index, record.target),
                    "img_path": f"{_joined(data_path)}images/{index.split}2014/{record.path}",
                }
                for record in index.records
                if isinstance(record.target, tuple) and any(record.target)
            ]
        )
        for index in (train, val)
    }


def csra_voc(trainval: Index, test: Index, data_path: str) -> dict[str, str]:
    """CSRA's VOC2007 files: in trainval difficult = 0 = negative; in test -1 negative, 0 difficult, 1 positive.

    Records are sorted by file name; images without any object are left out. `data_path` is the VOCdevkit folder.
    """
    shared = {record.path for record in trainval.records}
    files: dict[str, str] = {}
    for index in (trainval, test):
        records: list[Json] = []
        for record in sorted(index.records, key=lambda record: record.path):
            # The program holds one label list for an id that is in both splits: it turns binary in both.
            values = {1: 1, 0: 0, -1: 0} if record.path in shared else {1: 1, 0: -1, -1: 0}
            if record.boxes and isinstance(record.target, tuple):
                target = [values[value] for value in record.target]
                records.append({"target": target, "img_path": f"{_joined(data_path)}VOC2007/{record.path}"})
        files[f"csra/{index.split}_voc07.json"] = json.dumps(records)
    return files


def csra_wider(trainval: Index, test: Index, data_path: str) -> dict[str, str]:
    """CSRA's WIDER-Attribute files: one record a person; unspecified = 0 in trainval and 99 in test."""
    files: dict[str, str] = {}
    for index, unspecified in ((trainval, 0), (test, 99)):
        records = [
            {
                "img_path": f"{_joined(data_path)}{record.path}",
                "bbox": record.crop,
                "target": [unspecified if value == -1 else value for value in record.target],
            }
            for record in index.records
            if isinstance(record.target, tuple)
        ]
        files[f"csra/{index.split}_wider.json"] = json.dumps(records)
    return files


def _joined(data_path: str) -> str:
    """The path as typed, with one separator at its end (os.path.join's rule)."""
    return data_path if not data_path or data_path.endswith("/") else f"{data_path}/"


def _eighty(index: Index, target: tuple[int, ...]) -> list[int]:
    if len(target) > CSRA_COCO_CLASSES:
        raise DataError(f"{index.annotations}: {len(target)} categories; CSRA's COCO index has room for 80")
    return [*target, *[0] * (CSRA_COCO_CLASSES - len(target))]
