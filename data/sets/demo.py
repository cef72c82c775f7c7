"""The built-in set: scenes whose background gives the label away, made from real digits and real photographs.

Handwritten digits (UCI, in scikit-learn) lie on photographs (scikit-image, scikit-learn). In train and val digit k
mostly comes on photograph k and with its partner digit; `counter` shows the photographs of absent digits and no
partners (`counter_context` and `counter_cooccur` do one of the two), `unbiased` draws both evenly, and `swapped` has
the scenes of val, writing for writing in the same places, on photographs of absent digits. What a model scores there,
and where it looks, tells context from object. The folder is in COCO layout, masks included. Each image draws from a
generator of its own, seeded by (seed, split, number), so the number of processes changes nothing.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import re
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from attnbias.data.atomic import replacing
from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.prepared import PREPARED, discard, standing
from attnbias.data.reading import Json
from attnbias.data.sets.coco import read_coco
from attnbias.data.sets.contract import PrepareOptions, Reading

WORTH_PROCESSES = 10
"""Chunks of 100 scenes; fewer are drawn sooner here than processes start."""

CLASSES = tuple(f"digit_{digit}" for digit in range(10))

CONTEXTS = {
    "grass": ("skimage", "data/grass.png", "linolafett, CC0"),
    "brick": ("skimage", "data/brick.png", "CC0Textures Bricks25, CC0"),
    "gravel": ("skimage", "data/gravel.png", "CC0Textures Gravel04, CC0"),
    "chelsea": ("skimage", "data/chelsea.png", "Stefan van der Walt, CC0"),
    "coffee": ("skimage", "data/coffee.png", "Rachel Michetti, CC0"),
    "ihc": ("skimage", "data/ihc.png", "Center for Microscopy And Molecular Imaging, no known copyright restrictions"),
    "motorcycle": ("skimage", "data/motorcycle_left.png", "Middlebury stereo 2014 (Scharstein et al.)"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg", "NASA, public domain"),
    "china": ("sklearn", "datasets/images/china.jpg", "danielbuechele, CC BY 2.0"),
    "flower": ("sklearn", "datasets/images/flower.jpg", "vultilion, CC BY 2.0"),
}
"""Context k is digit k's own: name -> (package, file in it, attribution)."""

GENERATED = re.compile(
    PREPARED.pattern + r"|images/((?P<split>[\w-]+)/((?P=split)_\d{6,}\.jpg)?)?"
    r"|annotations/(\.?instances_[\w-]+\.json(\.\d+\.part)?)?"
)
"""All that is written into the set's folder (see data/owned.py)."""

TRAIN_DIGITS = 1197
"""Digits 0..1196 of the UCI order are for training, the other 600 (other writers) for every evaluation split."""


@dataclass(frozen=True)
class Preset:
    """How strong the bias is, and how hard the digits are to see."""

    context_bias: float | None = 0.95
    """Probability of the anchor digit's own photograph in train and val; None: they are drawn as `unbiased` is, with as
    many digits as with the bias."""
    partner_bias: float = 0.7
    """Probability of the partner digit (k XOR 1)."""
    max_extra: int = 1
    """Up to so many further digits."""
    side: tuple[float, float] = (0.30, 0.42)
    """A digit's height as a share of the image's."""
    opacity: tuple[float, float] = (0.85, 1.0)
    tint: float = 110.0
    """Each colour channel of a digit is 255 less up to this much."""
    halo: float = 0.75
    """How much the photograph is darkened around a digit."""


FAINT = Preset(side=(0.42, 0.60), opacity=(0.45, 0.75), halo=0.5)

PRESETS = {
    "easy": Preset(context_bias=0.9, partner_bias=0.6, side=(0.34, 0.46), opacity=(0.9, 1.0)),
    "medium": Preset(),
    # Nothing gives a digit away: its own photograph is one of 10, its partner one of 8 others; digits of many sizes.
    "even": Preset(context_bias=0.1, partner_bias=0.125, max_extra=2, side=(0.34, 0.8), opacity=(0.9, 1.0)),
    # For models that are trained on clear scenes first and then see fainter ones, with the bias or without.
    "clear": Preset(context_bias=0.1, partner_bias=0.125, max_extra=2, side=(0.40, 0.70), opacity=(0.9, 1.0)),
    "faint": FAINT,
    "faint-even": replace(FAINT, context_bias=None),
    "hard": Preset(partner_bias=0.8, max_extra=2, side=(0.20, 0.34), opacity=(0.75, 1.0), tint=255.0, halo=0.0),
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides the set."""

    preset: str = "medium"
    size: int = 64
    seed: int = 0
    train: int = 3000
    eval: int = 400
    single: bool = False
    """One digit an image."""


@dataclass(frozen=True)
class ScenePlan:
    """What one image shall show."""

    anchor: int
    digits: tuple[int, ...]
    """The anchor first."""
    context: int
    instead: int | None = None
    """The photograph that is shown instead, where all else is as with `context`."""

    @property
    def shown(self) -> int:
        return self.context if self.instead is None else self.instead


def plan(split: str, preset: Preset, single: bool, rng: np.random.Generator) -> ScenePlan:
    """Draw the digits and the photograph of one image of a split.

    All splits have as many digits an image and the same share of each digit; only what comes together differs.
    """
    if split == "swapped":
        scene = plan("val", preset, single, rng)
        absent = [context for context in range(10) if context not in (*scene.digits, scene.context)]
        return replace(scene, instead=int(rng.spawn(1)[0].choice(absent)))  # what `rng` draws next is as in val
    biased = preset.context_bias
    if biased is None and split in ("train", "val"):
        split = "unbiased"
    anchor = int(rng.integers(10))
    digits = (anchor, *(() if single else _companions(anchor, split, preset, rng)))
    if split in ("train", "val", "counter_cooccur") and biased is not None:
        others = [context for context in range(10) if context != anchor]
        context = anchor if rng.random() < biased else int(rng.choice(others))
    elif split in ("counter", "counter_context"):
        context = int(rng.choice([context for context in range(10) if context not in digits]))
    else:
        context = int(rng.integers(10))
    return ScenePlan(anchor, digits, context)


def _companions(anchor: int, split: str, preset: Preset, rng: np.random.Generator) -> tuple[int, ...]:
    partner, with_partner = anchor ^ 1, rng.random() < preset.partner_bias
    extra = int(rng.integers(preset.max_extra + 1))
    if split == "unbiased":
        others = [digit for digit in range(10) if digit != anchor]
        return tuple(int(digit) for digit in rng.choice(others, with_partner + extra, replace=False))
    if split in ("counter", "counter_cooccur"):  # one of each other pair at most: no two partners meet
        pairs = rng.choice([pair for pair in range(5) if pair != anchor // 2], with_partner + extra, replace=False)
        return tuple(int(2 * pair + rng.integers(2)) for pair in pairs)
    others = [digit for digit in range(10) if digit not in (anchor, partner)]
    drawn = tuple(int(digit) for digit in rng.choice(others, extra, replace=False))
    return (partner, *drawn) if with_partner else drawn


@dataclass(frozen=True)
class Placed:
    """One digit in an image: which, what is seen of it, and the UCI number of its writing."""

    digit: int
    mask: NDArray[np.bool_]
    number: int


def render(
    scene: ScenePlan, pool: NDArray[np.int64], preset: Preset, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Placed]]:
    """Draw a scene: the image (size, size, 3) uint8, and its digits in order.

    Args:
        pool: UCI numbers of the digits that may be used.
    """
    canvas = _background(scene.context, size, rng)
    if scene.instead is not None:
        canvas = _background(scene.instead, size, rng.spawn(1)[0])
    writings, labels = _digits()
    occupied = np.zeros((size, size), dtype=bool)
    placed = []
    for digit in scene.digits:
        number = int(rng.choice(pool[labels[pool] == digit]))
        side = round(rng.uniform(*preset.side) * size)
        ink = _resized(writings[number], side)
        color = 255.0 - rng.uniform(0, preset.tint, 3)
        opacity = rng.uniform(*preset.opacity)
        top, left = _free_place(ink > 0.4, occupied, rng)
        here = (slice(top, top + side), slice(left, left + side))
        seen = np.zeros((size, size), dtype=bool)
        seen[here] = ink > 0.4
        seen &= ~occupied  # later digits lie behind earlier ones
        if preset.halo:
            canvas *= 1 - preset.halo * _halo(seen)[..., None]
        alpha = np.zeros((size, size), dtype=np.float32)
        alpha[here] = ink * opacity
        alpha[~seen] = 0
        canvas += alpha[..., None] * (color - canvas)
        occupied |= seen
        if seen.any():
            placed.append(Placed(digit, seen, number))
    canvas += rng.normal(0, 3, canvas.shape)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), placed


def _background(context: int, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A random square part of a photograph, (size, size, 3): mirrored half the time, a little darker or brighter."""
    photograph = _photograph(context, max(size, 256))
    side = int(rng.integers(size, min(photograph.size) + 1))
    left = int(rng.integers(photograph.width - side + 1))
    top = int(rng.integers(photograph.height - side + 1))
    box = (left, top, left + side, top + side)
    part = np.asarray(photograph.resize((size, size), Image.Resampling.BILINEAR, box=box), dtype=np.float32)
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return part * np.float32(rng.uniform(0.75, 1.1))


def _free_place(ink: NDArray[np.bool_], occupied: NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int]:
    """Upper left corner of the first of 30 random places where nothing lies yet, or of the least occupied one."""
    side, size = len(ink), len(occupied)
    best, least = (0, 0), ink.size + 1
    for top, left in rng.integers(size - side + 1, size=(30, 2)).tolist():
        covered = int(np.count_nonzero(occupied[top : top + side, left : left + side] & ink))
        if covered < least:
            best, least = (top, left), covered
        if not covered:
            break
    return best


def _halo(seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    mask = Image.fromarray(seen.astype(np.uint8) * 255)
    blurred = mask.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.BoxBlur(1))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)


def _resized(writing: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """A writing's ink in [0, 1], 8 x 8 -> (side, side), bicubic."""
    scaled = Image.fromarray(writing).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(scaled, dtype=np.float32) / np.float32(255)


@cache
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All 1797 writings (N, 8, 8) in 0..255 and their digits (N,), in UCI order."""
    with gzip.open(_packaged("sklearn", "datasets/data/digits.csv.gz"), "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return np.rint(rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), rows[:, 64]


@cache
def _photograph(context: int, short_side: int) -> Image.Image:
    package, file, _ = list(CONTEXTS.values())[context]
    with Image.open(_packaged(package, file)) as photograph:
        scale = short_side / min(photograph.size)
        size = round(photograph.width * scale), round(photograph.height * scale)
        return photograph.convert("RGB").resize(size, Image.Resampling.BILINEAR)


def _packaged(package: str, file: str) -> Path:
    """A data file of an installed package, found without importing it (scikit-learn takes seconds)."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(
            "the demo set is made from scikit-learn's and scikit-image's data; run: pip install 'attnbias[demo]'"
        )
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise DataError(f"{path} is missing from this {package}; run: pip install --force-reinstall 'attnbias[demo]'")
    return path


def draw(folder: Path, split: str, number: int, settings: Settings) -> Json:
    """Make one image of a split, write it, and return its COCO entry: {"image": ..., "annotations": [...]}.

    Args:
        folder: where images/SPLIT/ stands.
        number: the image's position in the split, from 0.
    """
    rng = _generator(split, number, settings)
    preset = PRESETS[settings.preset]
    scene = plan(split, preset, settings.single, rng)
    pool = np.arange(TRAIN_DIGITS) if split == "train" else np.arange(TRAIN_DIGITS, len(_digits()[1]))
    pixels, placed = render(scene, pool, preset, settings.size, rng)
    Image.fromarray(pixels).save(folder / "images" / split / _file(split, number), quality=90)
    image = {
        "id": number + 1,
        "file_name": _file(split, number),
        "width": settings.size,
        "height": settings.size,
        "context": list(CONTEXTS)[scene.shown],
        "anchor": scene.anchor,
        "aligned": scene.shown == scene.anchor,
    }
    annotations = [{"image_id": number + 1, **_annotation(thing)} for thing in placed]
    return {"image": image, "annotations": annotations}


def _annotation(placed: Placed) -> Json:
    rows, columns = np.flatnonzero(placed.mask.any(1)), np.flatnonzero(placed.mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return {
        "category_id": placed.digit + 1,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(placed.mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(placed.mask.shape), "counts": run_lengths(placed.mask)},
        "writing": placed.number,
    }


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths of a mask: column by column, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff([0, *changes, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def generate(folder: Path, splits: Sequence[str], settings: Settings, options: PrepareOptions) -> None:
    """Make all images and annotation files of the set below `folder`."""
    counts = {split: settings.train if split == "train" else settings.eval for split in splits}
    chunks = [
        (split, range(start, min(start + 100, count)))
        for split, count in counts.items()
        for start in range(0, count, 100)
    ]
    for split in splits:
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
    entries: dict[str, list[Json]] = {split: [] for split in splits}
    for done, ((split, _), drawn) in enumerate(
        zip(chunks, _drawn(chunks, folder, settings, options.workers), strict=True)
    ):
        entries[split] += drawn
        options.progress("drawing scenes", done + 1, len(chunks))
    for split in splits:
        with replacing(_annotations(folder, split)) as file:
            file.write(_coco_file(split, entries[split], settings))


def _drawn(chunks: Sequence[tuple[str, range]], folder: Path, settings: Settings, workers: int) -> Iterator[list[Json]]:
    """The entries of each chunk in order, drawn here or by several processes."""
    draw_chunk = partial(_draw_chunk, folder=folder, settings=settings)
    if workers == 1 or len(chunks) < WORTH_PROCESSES:
        yield from map(draw_chunk, chunks)
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            yield from pool.map(draw_chunk, chunks)


def _draw_chunk(chunk: tuple[str, range], folder: Path, settings: Settings) -> list[Json]:
    split, numbers = chunk
    return [draw(folder, split, number, settings) for number in numbers]


def _coco_file(split: str, entries: Sequence[Json], settings: Settings) -> str:
    annotations = [annotation for entry in entries for annotation in entry["annotations"]]
    content = {
        "info": {
            "description": "attnbias contextual-bias scenes",
            "split": split,
            **asdict(settings),
            **asdict(PRESETS[settings.preset]),
        },
        "licenses": [{"id": k, "name": f"{name}: {by}"} for k, (name, (_, _, by)) in enumerate(CONTEXTS.items(), 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)],
        "images": [entry["image"] for entry in entries],
        "annotations": [{"id": k, **annotation} for k, annotation in enumerate(annotations, 1)],
    }
    return json.dumps(content)


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Make the set, or those of its splits that do not stand there already with the same settings.

    Raises:
        DataError: a setting is out of range, or the set stands there with others and `overwrite` was not asked for.
    """
    settings = Settings(**{**options.settings, "single": info.task == "singlelabel"})
    _check(settings)
    found = standing(folder, None, asdict(settings), replace=options.overwrite or options.dry_run)
    if options.dry_run:
        return Reading([_planned(info, split, settings) for split in info.splits], settings=asdict(settings))
    if not found or options.overwrite:
        discard(folder, GENERATED)
    missing = [split for split in info.splits if not _annotations(folder, split).is_file()]  # one that is new, or all
    generate(folder, missing, settings, options)
    return Reading([_read(info, folder, split) for split in info.splits], settings=asdict(settings))


def _read(info: DatasetInfo, folder: Path, split: str) -> Index:
    images = folder / "images" / split
    index = read_coco(_annotations(folder, split), images, dataset=info.name, split=split, group="context")
    if info.task == "multilabel":
        return index
    records = tuple(record._replace(target=record.boxes[0].label) for record in index.records)
    return replace(index, task=info.task, records=records)


def _planned(info: DatasetInfo, split: str, settings: Settings) -> Index:
    """What would be made: every label and photograph, no boxes."""
    count = settings.train if split == "train" else settings.eval
    records = []
    for number in range(count):
        scene = plan(split, PRESETS[settings.preset], settings.single, _generator(split, number, settings))
        several = tuple(int(digit in scene.digits) for digit in range(10))
        target = scene.anchor if settings.single else several
        records.append(Record(_file(split, number), target, group=list(CONTEXTS)[scene.shown]))
    return Index(info.name, split, info.task, CLASSES, Path(), tuple(records))


def _generator(split: str, number: int, settings: Settings) -> np.random.Generator:
    drawn_as = "val" if split == "swapped" else split
    return np.random.default_rng([settings.seed, zlib.crc32(drawn_as.encode()), number])


def _annotations(folder: Path, split: str) -> Path:
    return folder / "annotations" / f"instances_{split}.json"


def _file(split: str, number: int) -> str:
    return f"{split}_{number:06d}.jpg"


def _check(settings: Settings) -> None:
    if settings.preset not in PRESETS:
        raise DataError(f"unknown preset '{settings.preset}'; one of: {', '.join(PRESETS)}")
    if not 32 <= settings.size <= 4096:
        raise DataError(f"size {settings.size}: scenes have 32 to 4,096 pixels a side")
    for name, least, most in (("train", 1, 1_000_000), ("eval", 1, 1_000_000), ("seed", 0, 2**64 - 1)):
        if not least <= getattr(settings, name) <= most:
            raise DataError(f"{name} {getattr(settings, name)}: expected {least:,} to {most:,}")
