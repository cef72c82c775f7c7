"""Does a question steer where the model looks? Questions made from COCO's boxes, on collages of real objects.

    .venv/bin/python tests/benchmarks/template_questions.py COCO_FOLDER OUT [--plain] [options of train]

COCO_FOLDER holds annotations/instances_*.json and images/. Objects are cut out of the photographs by their boxes. As
in the paper, the vision side first learns to classify (single objects, `train absvit`), and then questions about
images of up to four objects ("is there a dog?", as often yes as no; "how many people are there?"), in VQAv2's own
layout, `train absvit --task vqa --backbone-weights`. All through the command line, from random weights.

It is measured on other cuts of the same photographs (128 of them cannot teach what a dog is), against the answer that
each question mostly has; and on images of four different objects, by the share of the map inside an object's place
when it is asked for, against the share inside the same place when another object of the same image is asked for.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.registry import open_split
from attnbias.methods.absvit.vision_language.attention import text_maps
from attnbias.methods.engine.load import Loaded, load_run
from attnbias.methods.engine.statistics import Ratio, interval

TILE = 32
"""Pixels of an object's place; an image has two by two."""
NAMES = 10
"""The most frequent objects, of at least four instances in three photographs."""
PEOPLE = "how many people are there?"
CUTS = {"train": 200, "val": 20}
"""Cuts of each object in each split."""
IMAGES = {"train": 6000, "val": 800}
CLASSIFY = (
    *("--recipe", "demo-single", "--architecture", "mini_patch8_token", "--image-size", TILE, "--shift", 3),
    *("--epochs", 30, "--eval-every", 30),
)
ANSWER = (
    *("--recipe", "tiny-vqa", "--image-size", 2 * TILE, "--max-text-length", 10, "--vocabulary", 100),
    *("--fusion-layers", 1, "--epochs", 10, "--batch-size", 64, "--prompt-pool", "masked"),
    *("--train-split", "train2014", "--eval-every", 2),
)
Cuts = dict[str, list[NDArray[np.uint8]]]
"""Name -> images (TILE, TILE, 3)."""


@dataclass(frozen=True)
class Collage:
    """An image, and the object at each of its places, row by row; None where nothing is."""

    image: Image.Image
    objects: tuple[str | None, ...]


def cut_out(coco: Path, rng: random.Random) -> dict[str, Cuts]:
    """Cut the objects out of the photographs, some way around their boxes, mirrored half the time."""
    (file,) = (coco / "annotations").glob("instances_*.json")
    photos = coco / "images" / file.stem.removeprefix("instances_")
    content = json.loads(file.read_text())
    name_of = {entry["id"]: entry["name"] for entry in content["categories"]}
    path_of = {entry["id"]: photos / entry["file_name"] for entry in content["images"]}
    found: dict[str, list[tuple[Path, list[float]]]] = defaultdict(list)
    for entry in content["annotations"]:
        if not entry["iscrowd"] and min(entry["bbox"][2:]) >= 40:
            found[name_of[entry["category_id"]]].append((path_of[entry["image_id"]], entry["bbox"]))
    enough = [name for name, all_of in found.items() if len(all_of) >= 4 and len({path for path, _ in all_of}) >= 3]
    names = sorted(enough, key=lambda name: (-len(found[name]), name))[:NAMES]
    return {
        split: {name: [_cut(*rng.choice(found[name]), rng) for _ in range(count)] for name in names}
        for split, count in CUTS.items()
    }


def _cut(photo: Path, box: Sequence[float], rng: random.Random) -> NDArray[np.uint8]:
    x, y, w, h = box
    with Image.open(photo) as file:
        side = min(max(w, h) * rng.uniform(0.8, 1.1), *file.size)
        middle = x + w / 2 + rng.uniform(-0.08, 0.08) * side, y + h / 2 + rng.uniform(-0.08, 0.08) * side
        left, top = (min(max(0, at - side / 2), size - side) for at, size in zip(middle, file.size, strict=True))
        region = (left, top, left + side, top + side)
        part = file.convert("RGB").resize((TILE, TILE), Image.Resampling.BILINEAR, region)
    return np.asarray(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part)


def collage(cuts: Cuts, objects: Sequence[str | None], rng: random.Random) -> Collage:
    """Put a cut of each object at its place, on grey."""
    pixels = np.full((2 * TILE, 2 * TILE, 3), 122, np.uint8)
    for position, name in enumerate(objects):
        if name is not None:
            row, column = divmod(position, 2)
            pixels[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = rng.choice(cuts[name])
    return Collage(Image.fromarray(pixels), tuple(objects))


def scene(cuts: Cuts, rng: random.Random) -> Collage:
    """One object half of the time (matching a word with an object is learnt there), else two to four."""
    count = 1 if rng.random() < 0.5 else rng.randint(2, 4)
    places, names = rng.sample(range(4), count), list(cuts)
    return collage(cuts, [rng.choice(names) if position in places else None for position in range(4)], rng)


def questions(shown: Collage, names: Sequence[str], rng: random.Random) -> list[tuple[str, str]]:
    """Ask for an object that is there and for one that is not; of every fourth image, how many people there are."""
    present = sorted({name for name in shown.objects if name is not None})
    absent = [name for name in names if name not in present]
    asked = [(asking(rng.choice(present)), "yes"), (asking(rng.choice(absent)), "no")]
    return asked if rng.random() < 0.75 else [*asked, (PEOPLE, str(shown.objects.count("person")))]


def asking(name: str) -> str:
    """The question for an object."""
    return f"is there {'an' if name[0] in 'aeiou' else 'a'} {name}?"


def lay_out(cuts: dict[str, Cuts], out: Path, rng: random.Random) -> None:
    """Write single objects as a folder of classes, and collages with questions in VQAv2's layout."""
    for split, of_split in cuts.items():
        for name, images in of_split.items():
            folder = out / "objects" / split / name
            folder.mkdir(parents=True)
            for number, pixels in enumerate(images):
                Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        folder = out / "vqa" / f"{split}2014"
        folder.mkdir(parents=True)
        asked: list[dict[str, Any]] = []
        told: list[dict[str, Any]] = []
        for number in range(1, IMAGES[split] + 1):
            shown, image = scene(of_split, rng), number + 1_000_000 * (split == "val")
            shown.image.save(folder / f"COCO_{split}2014_{image:012d}.jpg", quality=95)
            for question, answer in questions(shown, list(of_split), rng):
                position = {"image_id": image, "question_id": len(asked) + 1_000_000 * (split == "val")}
                asked.append({**position, "question": question})
                told.append({**position, "multiple_choice_answer": answer, "answers": [{"answer": answer}] * 10})
        parts = {f"v2_OpenEnded_mscoco_{split}2014_questions": {"questions": asked}}
        parts[f"v2_mscoco_{split}2014_annotations"] = {"annotations": told}
        for stem, content in parts.items():
            (out / "vqa" / f"{stem}.json").write_text(json.dumps(content))


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
def energies(loaded: Loaded, root: Path, shown: Sequence[Collage], kind: str) -> dict[str, Any]:
    """Per cent of a map inside an object's place: asked for it, and asked for the others of the image (mean).

    The difference has a 95 % interval over images.
    """
    method, recipe, model = loaded.method, loaded.recipe, loaded.model
    dataset: Any = method.open_dataset(recipe, open_split("vqav2", "val2014", root))
    transform = method.transform(recipe, train=False)
    own, other = [], []
    for each in shown:
        ids, mask = dataset.encode([asking(name) for name in each.objects if name is not None])
        image = transform(each.image)[None].expand(len(ids), -1, -1, -1)
        maps = text_maps(model, image, ids, mask, kind)  # type: ignore[arg-type]  # (asked, h, w)
        half = maps.shape[-1] // 2
        places = maps.unflatten(2, (2, half)).unflatten(1, (2, half)).sum((2, 4)).flatten(1)  # (asked, place)
        places = places / places.sum(1, keepdim=True).clamp_min(1e-12)
        own.append(places.diagonal().mean())
        other.append((places.sum() - places.trace()) / (len(ids) * (len(ids) - 1)))
    asked, others = (100 * torch.stack(values).double().numpy() for values in (own, other))
    return {
        "pictures": len(shown),
        "asked": asked.mean(),
        "another asked": others.mean(),
        "difference": (asked - others).mean(),
        "interval": interval(Ratio.mean(asked - others), np.arange(len(asked))),
    }


def run(coco: Path, out: Path, *, top_down: bool = True, options: Sequence[str] = (), seed: int = 0) -> dict[str, Any]:
    """Prepare, train twice and measure; return all figures."""
    rng, root = random.Random(seed), out / "root"
    cuts = cut_out(coco, rng)
    lay_out(cuts, out, rng)
    side = "--top-down" if top_down else "--no-top-down"
    common = ("--data-root", root, "--gpus", 0, "--threads", 1, "--seed", seed)
    call("prepare-data", out / "objects", "--root", root)
    call("prepare-data", "vqav2", "--source", out / "vqa", "--root", root, "--min-answers", 1)
    call("train", "absvit", *CLASSIFY, side, "--dataset", "objects", "--out", out / "classifier", *common)
    start = ("--backbone-weights", out / "classifier")
    call("train", "absvit", "--task", "vqa", *ANSWER, side, *start, "--out", out / "run", *common, *options)
    lines = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    loaded = load_run("absvit-vision-language", str(out / "run"), {}, data_root=root)
    names = list(cuts["val"])
    shown = [collage(cuts["val"], rng.sample(names, 4), rng) for _ in range(300)]
    kinds = ("attention", "shown", "mask") if top_down else ("attention", "shown")
    return {
        "objects": names,
        "baselines": baselines(root),
        "vqa_score": [line["vqa_score"] for line in lines if "vqa_score" in line],
        "share of the map": {kind: energies(loaded, root, shown, kind) for kind in kinds},
    }


def call(*arguments: Any) -> None:
    """Run one `attnbias` command."""
    subprocess.run([sys.executable, "-m", "attnbias", *map(str, arguments)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--plain", action="store_true", help="the plain ViT")
    known, rest = parser.parse_known_args()
    print(json.dumps(run(known.coco, known.out, top_down=not known.plain, options=rest), indent=1))
