"""Tiny sets of images and texts in their official layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from attnbias.data import prepare as preparing
from attnbias.data.prepare import prepare
from attnbias.data.sets.contract import PrepareOptions

COLOURS = ("red", "green", "blue", "yellow")


def image(path: Path, colour: str = "red", size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write(path: Path, content: Any, *, lines: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, content)) if lines else json.dumps(content))


def vqa_tree(source: Path) -> Path:
    """Two questions per image: its colour, told by nine of ten people, and one whose answer nobody repeats."""
    for split, numbers in {"train2014": (7, 3, 12, 5), "val2014": (2, 9), "test2015": (1, 4)}.items():
        questions, annotations = [], []
        for position, number in enumerate(numbers):
            colour = COLOURS[position % 4]
            image(source / split / f"COCO_{split}_{number:012d}.jpg", colour)
            for kind, question in enumerate(("What colour is it?", "Who took it?")):
                identifier = 10 * number + kind
                answers = [colour] * 9 + ["red"] if kind == 0 else [f"person {number} {i}" for i in range(10)]
                questions.append({"image_id": number, "question_id": identifier, "question": question})
                annotations.append(
                    {
                        **{"image_id": number, "question_id": identifier},
                        "multiple_choice_answer": answers[0].title(),
                        "answers": [{"answer": answer, "answer_id": i} for i, answer in enumerate(answers, start=1)],
                    }
                )
        write(source / f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
        if split != "test2015":
            write(source / f"v2_mscoco_{split}_annotations.json", {"annotations": annotations})
        else:
            write(source / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions[:2]})
    return source


def snli_tree(source: Path) -> Path:
    for name in ("11", "12"):
        image(source / "flickr30k-images" / f"{name}.jpg")
    for split in ("train", "dev", "test"):
        rows = [
            {"Flickr30K_ID": name, "sentence1": "A premise.", "sentence2": f" It is {label}. ", "gold_label": label}
            for name in ("11", "12")
            for label in ("entailment", "neutral", "contradiction")
        ]
        write(source / f"snli_ve_{split}.jsonl", rows, lines=True)
    return source


def nlvr2_tree(source: Path) -> Path:
    for split, folder in {"train": "images/train/5", "dev": "dev", "test1": "test1"}.items():
        rows = []
        for pair in (f"{split}-1-0", f"{split}-2-0"):
            for side, colour in enumerate(("red", "green")):
                image(source / folder / f"{pair}-img{side}.png", colour)
            place = {"directory": 5} if split == "train" else {}
            rows += [
                {"identifier": f"{pair}-{k}", "sentence": "Left is red.", "label": label, **place}
                for k, label in enumerate(("True", "False"))
            ]
        write(source / "nlvr2" / "data" / f"{split}.json", rows, lines=True)
    return source


def caption_tree(source: Path, name: str = "flickr30k") -> Path:
    """Karpathy's file over images with two captions each; the first image has its first caption twice."""
    folders = {"flickr30k": ("flickr30k-images",) * 3, "coco-captions": ("train2014", "val2014", "val2014")}[name]
    splits = {"flickr30k": ("train", "val", "test"), "coco-captions": ("train", "restval", "test")}[name]
    images = []
    for split, folder in zip(splits, folders, strict=True):
        for number in (3, 1, 2):
            file = f"{split}{number}.jpg"
            image(source / folder / file, COLOURS[number])
            captions = [f"A {COLOURS[number]} square of {split}.", f"Something {COLOURS[number]}."]
            captions += captions[:1] if number == 1 else []
            images.append({"filename": file, "split": split, "sentences": [{"raw": c} for c in captions]})
    write(source / f"dataset_{'coco' if name == 'coco-captions' else name}.json", {"images": images})
    return source


TREES: dict[str, Any] = {
    "vqav2": vqa_tree,
    "snli-ve": snli_tree,
    "nlvr2": nlvr2_tree,
    "flickr30k": caption_tree,
    "coco-captions": lambda source: caption_tree(source, "coco-captions"),
}
SETTINGS: dict[str, dict[str, Any]] = {"vqav2": {"min_answers": 1}}


def prepared(name: str, tmp_path: Path, **options: Any) -> preparing.Report:
    source = TREES[name](tmp_path / "source")
    return prepare(name, source, tmp_path / "root", PrepareOptions(settings=SETTINGS.get(name, {}), **options))
