"""The vision-language data side: answers, the published writers' tables, image pipelines and RandAugment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from attnbias.data.index import Index, Record
from attnbias.data.sets.answers import ARTICLES, NUMBERS, PUNCTUATION, normalize_answer, soft_score
from attnbias.data.sets.captions import IMAGES, read_annotated, read_karpathy
from attnbias.data.sets.statements import NLVR2_FILES, TRUTH, read_nlvr2, read_snli_ve
from attnbias.data.sets.vqa import ANSWERED, hold_out, read_vqa
from attnbias.data.transforms.language import DRAWN, OPERATIONS, STRONGEST, apply_operation, language_transform
from tests.parity.golden_case import Golden

Row = dict[str, Any]


def _index(case: Golden) -> dict[str, Any]:
    """Read the case's files, and lay the records out as the writers do: one row per image, in the order of its id."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name, content in case.config["files"].items():
            lines = name in case.config["files_that_are_json_lines"]
            _put(root / name, "\n".join(map(json.dumps, content)) if lines else json.dumps(content))
        for name in case.config["images"]:
            _put(root / name, "")
        writer = next(write for prefix, write in WRITERS.items() if case.name.startswith(f"index_{prefix}"))
        return {f"{name}.arrow": table for name, table in writer(root).items()}


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _vqa(root: Path) -> dict[str, Any]:
    indexes = {split.removesuffix("2014"): index for split, index in read_vqa(root).items()}
    rows = {split: _vqa_rows(index, split) for split, index in indexes.items()}
    tables = {f"vqav2_{split}": _table(VQA_COLUMNS, each) for split, each in rows.items()}
    val = indexes["val"]
    for name, records in zip(("trainable_val", "rest_val"), hold_out(_there(val)), strict=True):
        part = [row for row in rows["val"] if any(record.image_id == row["image_id"] for record in records)]
        tables[f"vqav2_{name}"] = _table(VQA_COLUMNS, part, {"image_id": "int64"})  # cut from a table with types
    return tables


def _vqa_rows(index: Index, split: str) -> list[Row]:
    rows = []
    for records in _by_image(index):
        texts = [record.text for record in records if record.text]
        answers = [text.answers for text in texts] if index.split in ANSWERED else []
        rows.append(
            {
                "image": "bytes",
                "questions": [text.sentence for text in texts],
                "answers": [[index.classes[label] for label, _ in each] for each in answers],
                "answer_labels": [[label for label, _ in each] for each in answers],
                "answer_scores": [[score for _, score in each] for each in answers],
                "image_id": records[0].image_id,
                "question_id": [int(str(text.identifier)) for text in texts],
                "split": split,
            }
        )
    return rows


def _karpathy(dataset: str, prefix: str, splits: Sequence[str]) -> Callable[[Path], dict[str, Any]]:
    def tables(root: Path) -> dict[str, Any]:
        folders = [root / folder for folder in IMAGES[dataset] if (root / folder).is_dir()]
        indexes = read_karpathy(next(root.glob("karpathy/*.json")), folders, root, dataset=dataset)
        return {
            f"{prefix}_{split}": _table(
                CAPTION_COLUMNS, _caption_rows(indexes[split], split) if split in indexes else []
            )
            for split in splits
        }

    return tables


def _annotated(prefix: str, files: dict[str, str]) -> Callable[[Path], dict[str, Any]]:
    def tables(root: Path) -> dict[str, Any]:
        return {
            f"{prefix}{split}_0" if len(files) > 1 else f"{prefix}0": _table(
                CAPTION_COLUMNS, _caption_rows(read_annotated(root / file, root, split, dataset=prefix), split)
            )
            for split, file in files.items()
        }

    return tables


def _caption_rows(index: Index, split: str) -> list[Row]:
    return [
        {
            "image": "bytes",
            "caption": [record.text.sentence for record in records if record.text],
            "image_id": Path(records[0].path).name,
            "split": split,
        }
        for records in _by_image(index)
    ]


def _snli(root: Path) -> dict[str, Any]:
    tables = {}
    for split in ("train", "dev", "test"):
        file = root / f"snli_ve_{split}.jsonl"
        premises = [json.loads(line)["sentence1"] for line in file.read_text().splitlines()]  # the product reads none
        index = read_snli_ve(file, "Flickr30K/images", root, split)
        premise_of = dict(zip(map(id, index.records), premises, strict=True))
        rows = [
            {
                "image": "bytes",
                "sentences": [[premise_of[id(record)], record.text.sentence] for record in records if record.text],
                "labels": [record.target for record in records],
            }
            for records in _by_image(index)
        ]
        tables[f"snli_{split}"] = _table(("image", "sentences", "labels"), rows)
    return tables


def _nlvr2(root: Path) -> dict[str, Any]:
    tables = {}
    for split, file in NLVR2_FILES.items():
        rows = []
        for records in _by_image(read_nlvr2(root / "nlvr2" / "data" / file, root, split)):
            texts = [record.text for record in records if record.text]
            rows.append(
                {
                    "image_0": "bytes",
                    "image_1": "bytes",
                    "questions": [text.sentence for text in texts],
                    "answers": [TRUTH[int(str(record.target))] for record in records],
                    "identifier": str(texts[0].identifier).rpartition("-")[0],
                }
            )
        tables[f"nlvr2_{split}"] = _table(("image_0", "image_1", "questions", "answers", "identifier"), rows)
    return tables


def _there(index: Index) -> tuple[Record, ...]:
    """The records whose images exist: the writers pass over the others, where `prepare-data` reports them."""
    return tuple(r for r in index.records if all((index.root / path).is_file() for path in r.images))


def _by_image(index: Index) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in _there(index):
        groups.setdefault(record.path, []).append(record)
    return list(groups.values())


def _table(columns: Iterable[str], rows: list[Row], typed: dict[str, str] | None = None) -> Row:
    """Rows and the types that pyarrow tells from them; the schema is part of the tables, though we write none."""
    schema = [[name, _type(name, [row[name] for row in rows])] for name in columns]
    if not rows:
        schema = [[name, (typed or {}).get(name, "null")] for name, _ in schema]
    return {"schema": schema, "rows": rows}


def _type(name: str, values: list[Any]) -> str:
    if not values:
        return "null"
    if isinstance(values[0], list):
        return f"list<item: {_type(name, [item for value in values for item in value])}>"
    if name in ("image", "image_0", "image_1"):
        return "binary"
    return {int: "int64", float: "double", str: "string"}[type(values[0])]


def _normalize(case: Golden) -> dict[str, Any]:
    case.config.only(articles_removed=sorted(ARTICLES), punctuation_in_order=list(PUNCTUATION), number_words=NUMBERS)
    return {"pairs": [[answer, normalize_answer(answer)] for answer, _ in case.outputs["pairs"]["value"]]}


def _vqa_soft_score(case: Golden) -> dict[str, Any]:
    return {"k_score": [[people, soft_score(people)] for people, _ in case.outputs["k_score"]["value"]]}


def _prep(case: Golden) -> dict[str, Any]:
    image = Image.fromarray(case.input("photo"))
    case.config.only(size=[image.height, image.width])
    return {"tensor": language_transform(case.config["key"], case.config["image_size"])(image)}


def _randaug(case: Golden) -> dict[str, Any]:
    image = Image.fromarray(case.input("photo"))
    magnitude = case.config["magnitude"]
    table = [[name, each.low, each.high, each.value(magnitude)] for name, each in OPERATIONS.items()]
    case.config.only(operations_low_high_value=table, n_per_image=DRAWN, of=STRONGEST)
    return {name: np.array(apply_operation(image, name, magnitude)) for name in OPERATIONS}


VQA_COLUMNS = ("image", "questions", "answers", "answer_labels", "answer_scores", "image_id", "question_id", "split")
CAPTION_COLUMNS = ("image", "caption", "image_id", "split")
WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "vqa": _vqa,
    "f30k": _karpathy("flickr30k", "f30k_caption_karpathy", ("train", "val", "test")),
    "coco": _karpathy("coco-captions", "coco_caption_karpathy", ("train", "val", "restval", "test")),
    "snli": _snli,
    "nlvr2": _nlvr2,
    "sbu": _annotated("sbu_", {"train": "annot.json"}),
    **{
        name: _annotated("conceptual_caption_", {"train": "train_annot.json", "val": "val_annot.json"})
        for name in ("cc", "gcc", "conceptual")
    },
}

RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "index": _index,
    "normalize": _normalize,
    "vqa_soft_score": _vqa_soft_score,
    "prep": _prep,
    "randaug": _randaug,
}
