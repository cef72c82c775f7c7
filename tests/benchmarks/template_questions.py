"""Does a question steer where the model looks? Questions made from COCO's boxes, on crops of photographs.

    .venv/bin/python tests/benchmarks/template_questions.py COCO_FOLDER OUT [--plain] [--crops N] [options of train]

The README's figures: --crops 12 --image-size 48 --max-text-length 10 --fusion-layers 1 --epochs 20 --batch-size 32

COCO_FOLDER holds annotations/instances_*.json and images/. Each photograph gives square crops, each crop questions ("is
there a dog?", as often yes as no for each object; "how many people are there?"), in VQAv2's own layout. A tiny model
learns from random weights through the command line. It is measured on other crops of the same photographs (128 of them
cannot teach what a dog is), against the answer that each question mostly has; and on every crop with an object of its
own, by the share of the map inside that object's box when it is asked for, against the share inside the same box when
another object is asked for.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attnbias.data.registry import open_split
from attnbias.methods.absvit.vision_language.attention import text_maps
from attnbias.methods.engine.load import Loaded, load_run

SIDE = 96
"""Pixels of a stored crop."""
FREQUENT = 9
"""Photographs that an object must be in to be asked for."""
PEOPLE = "how many people are there?"
MOST = 3
"""People are counted up to here."""


@dataclass(frozen=True)
class Crop:
    """A square of a photograph and what of its objects is inside: name -> boxes (x, y, w, h) as shares of the crop."""

    picture: Image.Image
    boxes: dict[str, list[tuple[float, float, float, float]]]
    absent: list[str]
    photo: str
    """Objects of which nothing is inside."""


def crops(
    photo: Path, objects: Sequence[tuple[str, list[float]]], names: Sequence[str], rng: random.Random, count: int
) -> Iterator[Crop]:
    """Draw crops of 40 to 100 % of the shorter side. An object counts where half of its box is inside and covers at
    least 4 % of the crop; objects that are cut more, or smaller, are not asked for."""
    with Image.open(photo) as file:
        picture = file.convert("RGB")
    for _ in range(count):
        side = rng.uniform(0.4, 1) * min(picture.size)
        left, top = (rng.uniform(0, length - side) for length in picture.size)
        inside: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
        touched = set()
        for name, (x, y, w, h) in objects:
            x0, y0, x1, y1 = max(x, left), max(y, top), min(x + w, left + side), min(y + h, top + side)
            if x1 <= x0 or y1 <= y0:
                continue
            touched.add(name)
            share = (x1 - x0) * (y1 - y0)
            if share >= 0.5 * w * h and share >= 0.04 * side * side:
                inside[name].append(((x0 - left) / side, (y0 - top) / side, (x1 - x0) / side, (y1 - y0) / side))
        box = (left, top, left + side, top + side)
        part = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)
        yield Crop(part, dict(inside), [name for name in names if name not in touched], photo.name)


def questions(crop: Crop, balance: Counter[str], rng: random.Random, clean: bool) -> Iterator[tuple[str, str]]:
    """Ask for each object that is there, and for as many that are not, those that were least asked for with "no"."""
    present = list(crop.boxes)
    for name in present:
        balance[name] += 1
        yield asking(name), "yes"
    absent = sorted(crop.absent, key=lambda name: (-balance[name], rng.random()))
    for name in absent[: max(1, len(present))]:
        if balance[name] > 0:
            balance[name] -= 1
            yield asking(name), "no"
    if clean:  # every person is inside or outside
        yield PEOPLE, str(min(MOST, len(crop.boxes.get("person", ()))))


def asking(name: str) -> str:
    """The question for an object."""
    return f"is there {'an' if name[0] in 'aeiou' else 'a'} {name}?"


def lay_out(coco: Path, source: Path, per_photo: dict[str, int], seed: int = 0) -> dict[int, Crop]:
    """Write train and val in VQAv2's layout; return val's crops by their numbers."""
    (file,) = (coco / "annotations").glob("instances_*.json")
    photos = coco / "images" / file.stem.removeprefix("instances_")
    content = json.loads(file.read_text())
    name_of = {entry["id"]: entry["name"] for entry in content["categories"]}
    objects: dict[int, list[tuple[str, list[float]]]] = defaultdict(list)
    for entry in content["annotations"]:
        objects[entry["image_id"]].append((name_of[entry["category_id"]], entry["bbox"]))
    counts = Counter(name for found in objects.values() for name in {name for name, _ in found})
    names = sorted(name for name, count in counts.items() if count >= FREQUENT)
    kept: dict[int, Crop] = {}
    rng, number = random.Random(seed), 0
    for split, count in per_photo.items():
        folder = source / f"{split}2014"
        folder.mkdir(parents=True)
        asked: list[dict[str, Any]] = []
        told: list[dict[str, Any]] = []
        balance: Counter[str] = Counter()
        for image in content["images"]:
            own = [(name, box) for name, box in objects[image["id"]] if name in names]
            if not own:
                continue
            for crop in crops(photos / image["file_name"], own, names, rng, count):
                number += 1
                crop.picture.save(folder / f"COCO_{split}2014_{number:012d}.jpg", quality=95)
                if split == "val":
                    kept[number] = crop
                clean = len(crop.boxes.get("person", ())) > 0 or "person" in crop.absent
                for question, answer in questions(crop, balance, rng, clean):
                    place = {"image_id": number, "question_id": len(asked) + 1_000_000 * (split == "val")}
                    asked.append({**place, "question": question})
                    told.append({**place, "multiple_choice_answer": answer, "answers": [{"answer": answer}] * 10})
        (source / f"v2_OpenEnded_mscoco_{split}2014_questions.json").write_text(json.dumps({"questions": asked}))
        (source / f"v2_mscoco_{split}2014_annotations.json").write_text(json.dumps({"annotations": told}))
    return kept


def baselines(root: Path) -> dict[str, float]:
    """Per cent right on val by the commonest answer of train, and by each question's commonest answer."""
    train, val = (open_split("vqav2", split, root) for split in ("train2014", "val2014"))
    pairs = [[(r.text.sentence, r.text.answers[0][0]) for r in index.records if r.text] for index in (train, val)]
    overall = Counter(answer for _, answer in pairs[0]).most_common(1)[0][0]
    own: dict[str, Counter[int]] = defaultdict(Counter)
    for question, answer in pairs[0]:
        own[question][answer] += 1
    best = {question: counter.most_common(1)[0][0] for question, counter in own.items()}
    return {
        "majority": 100 * float(np.mean([answer == overall for _, answer in pairs[1]])),
        "majority of each question": 100 * float(np.mean([answer == best.get(q, overall) for q, answer in pairs[1]])),
    }


@torch.no_grad()
def energies(loaded: Loaded, root: Path, kept: dict[int, Crop], kind: str) -> dict[str, float]:
    """Share of a map inside an object's boxes, in per cent: asked for it, asked for the others (mean), their area.

    The standard error is over photographs, whose crops are not independent.
    """
    method, recipe, model = loaded.method, loaded.recipe, loaded.model
    dataset: Any = method.open_dataset(recipe, open_split("vqav2", "val2014", root))
    transform = method.transform(recipe, train=False)
    names = sorted({name for crop in kept.values() for name in crop.boxes})
    ids, mask = dataset.encode([asking(name) for name in names])
    rows: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for crop in kept.values():
        image = transform(crop.picture)[None].expand(len(names), -1, -1, -1)
        maps = text_maps(model, image, ids, mask, kind)  # type: ignore[arg-type]
        maps = maps / maps.sum((1, 2), keepdim=True).clamp_min(1e-12)
        for name in crop.boxes:
            place = names.index(name)
            region = inside(crop.boxes[name], maps.shape[-1])
            shares = (maps * region).sum((1, 2))
            others = torch.cat((shares[:place], shares[place + 1 :])).mean()
            rows[crop.photo].append((shares[place].item(), others.item(), region.mean().item()))
    asked, other, area = np.concatenate(list(rows.values())).T * 100
    by_photo = 100 * np.array([np.mean([a - o for a, o, _ in found]) for found in rows.values()])
    return {
        "crops": len(asked),
        "photographs": len(rows),
        "asked": asked.mean(),
        "another asked": other.mean(),
        "area": area.mean(),
        "difference": by_photo.mean(),
        "standard error": by_photo.std(ddof=1) / len(rows) ** 0.5,
    }


def inside(boxes: Sequence[tuple[float, float, float, float]], cells: int) -> torch.Tensor:
    """Share of each cell of a map that lies inside any of the boxes, (cells, cells)."""
    fine = torch.zeros(8 * cells, 8 * cells)
    for x, y, w, h in boxes:
        left, top, right, bottom = (round(8 * cells * v) for v in (x, y, x + w, y + h))
        fine[top:bottom, left:right] = 1
    return torch.nn.functional.avg_pool2d(fine[None], 8)[0]


def run(
    coco: Path, out: Path, *, top_down: bool = True, per_photo: dict[str, int], options: Sequence[str] = ()
) -> dict[str, Any]:
    """Prepare, train and measure; return all figures."""
    kept = lay_out(coco, out / "source", per_photo)
    root, folder = out / "root", out / "run"
    call("prepare-data", "vqav2", "--source", out / "source", "--root", root, "--min-answers", 1)
    call(
        *("train", "absvit", "--task", "vqa", "--recipe", "tiny-vqa", "--data-root", root, "--out", folder),
        *("--gpus", 0, "--threads", 1, "--train-split", "train2014", "--top-down" if top_down else "--no-top-down"),
        *options,
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    loaded = load_run("absvit-vision-language", str(folder), {}, data_root=root)
    kinds = ("attention", "shown", "mask") if top_down else ("attention", "shown")
    return {
        "baselines": baselines(root),
        "vqa_score": [line["vqa_score"] for line in lines if "vqa_score" in line],
        "inside the box": {kind: energies(loaded, root, kept, kind) for kind in kinds},
    }


def call(*arguments: Any) -> None:
    """Run one `attnbias` command."""
    subprocess.run([sys.executable, "-m", "attnbias", *map(str, arguments)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--plain", action="store_true", help="the plain ViT")
    parser.add_argument("--crops", type=int, default=30, help="training crops of a photograph")
    known, rest = parser.parse_known_args()
    figures = run(
        known.coco, known.out, top_down=not known.plain, per_photo={"train": known.crops, "val": 8}, options=rest
    )
    print(json.dumps(figures, indent=1))
