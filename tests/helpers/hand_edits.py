"""Files of a data set and of a run, edited as people and accidents do, and the commands that read each of them.

python -m tests.helpers.hand_edits FOLDER EDITS [SEED]     # prints what ended otherwise than with 0, 2 or 3 and a line
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

from attnbias.data.prepared import Prepared
from attnbias.data.registry import open_split
from attnbias.methods.engine.evaluation.cache import END as IMAGES
from attnbias.methods.engine.output_folder import WRITTEN
from attnbias.methods.engine.prior_files import About, Priors
from tests.helpers.command_line import attnbias
from tests.helpers.language_sets import vqa_tree
from tests.helpers.small_model import DIGITS, write_model

LIMIT, HANGS = 20, 120
"""Seconds of this process that a command may take, where a good one takes one; and seconds after which it hangs."""

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 10**400, 0.5, -1e308, 1e308, float("nan"), float("inf")),
    *("", "x", "3", "..", "../../etc/passwd", "/dev/zero", "a\0b", "\ud800", "[/b]", "\x1b[31m", "x" * 100_000),
    *([], {}, [[]], [None], {"x": 1}, [0] * 10_000, ["a"] * 200_000),
]  # fmt: skip

RUN = ("--recipe", "demo", "--backbone", "tiny", "--image-size", 32, "--epochs", 1, "--batch-size", 6)
CPU = ("--gpus", 0, "--threads", 1)
QUICK = ("--limit", 2, "--faithfulness", 1)
"""Of an audit."""


@dataclass(frozen=True)
class World:
    """A demo set and two runs that were trained on it, one of them evaluated and audited; what else a person writes for
    an audit or for maps: a table with masks and groups, class maps, priors; images that were kept, archives; label maps
    and questions, each with a model; and what commands wrote that may write it again."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def steered(self) -> Path:
        """Weights whose maps priors steer."""
        return self.folder / "steered.safetensors"

    @property
    def foreign(self) -> Path:
        """Weights of a model whose classes have other names."""
        return self.folder / "foreign.safetensors"

    @property
    def priors(self) -> Path:
        return self.folder / "priors.npz"

    @property
    def table(self) -> Path:
        return self.folder / "photos" / "table.csv"

    @property
    def audited(self) -> Path:
        return self.folder / "audit"

    @property
    def for_machines(self) -> tuple[Any, ...]:
        """Files of an audit beside its folder."""
        files = ("--junit", self.folder / "audit.xml", "--markdown", self.folder / "audit.md")
        return ("--fail-if", "accuracy<0", *files)

    @property
    def other(self) -> Path:
        """The run of another seed."""
        return self.folder / "other"

    @property
    def segmenter(self) -> Path:
        return self.folder / "segmenter.safetensors"

    @property
    def answerer(self) -> Path:
        """Weights of a model that answers questions."""
        return self.folder / "answerer.safetensors"

    @property
    def plots(self) -> Path:
        """Images beside their label maps."""
        return self.folder / "plots"

    @property
    def shards(self) -> Path:
        """Archives that are read in place."""
        return self.folder / "shards"

    @property
    def cache(self) -> Path:
        """Images that an evaluation keeps."""
        return self.folder / "cache"

    @property
    def questions(self) -> Path:
        return self.folder / "questions.csv"

    @property
    def written(self) -> Path:
        """What commands wrote, and may write again with --overwrite."""
        return self.folder / "written"

    def class_map(self, ending: str) -> Path:
        return self.folder / f"classes{ending}"

    def make(self, *, whole: bool = True) -> None:
        """Prepare, train, evaluate, audit; the other tasks and what may be written again only in a `whole` world."""
        attnbias("prepare-data", "demo", "--root", self.root, "--train", 12, "--eval", 6, "--size", 32, expect=0)
        attnbias("train", "csra", *RUN, *CPU, "--root", self.root, "--out", self.run, expect=0)
        probes = ("--bias", "--attack", "fgsm", "--reliance", "--calibration", "--per-class")
        self.val("--store", *probes, expect=0)
        write_model(self.steered, "absvit", image_size=32)
        write_model(self.foreign, "plain", tuple(f"number {name[-1]}" for name in DIGITS), image_size=32)
        pairs = {f"number {name[-1]}": name for name in DIGITS}
        self.class_map(".json").write_text(json.dumps(pairs))
        rows = ["model,dataset", *map(",".join, pairs.items())]
        self.class_map(".csv").write_text("\n".join(rows) + "\n")
        self.make_table()
        vectors = np.random.default_rng(0).normal(size=(len(DIGITS), 128)).astype(np.float32)
        about = About(
            of="objects", weights="w", fingerprint="0" * 8, dataset="demo", split="val", samples={DIGITS[0]: 1}
        )
        Priors(DIGITS, vectors, about).save(self.priors)
        self.audit(self.run, "demo", "--out", self.audited, *self.for_machines, expect=0)
        self.val("--cache", self.cache, expect=0)
        if not whole:
            return
        attnbias("train", "csra", *RUN, *CPU, "--seed", 1, "--root", self.root, "--out", self.other, expect=0)
        attnbias("prepare-data", self.table, "--name", "listed", "--root", self.root, expect=0)
        self.make_shards()
        self.make_plots()
        self.make_questions()
        self.written.mkdir()
        for command in self.writers().values():
            assert command().code == 0, command

    def make_shards(self) -> None:
        """Write archives of images beside their classes, and prepare them where they lie."""
        self.shards.mkdir()
        for split in ("train", "val"):
            with tarfile.open(self.shards / f"{split}-000000.tar", "w") as archive:
                for number, name in enumerate(DIGITS):
                    pixels = io.BytesIO()
                    Image.new("RGB", (40, 40), (20 * number, 90, 30)).save(pixels, "PNG")
                    for ending, content in (("png", pixels.getvalue()), ("cls", name.encode())):
                        member = tarfile.TarInfo(f"{number:05}.{ending}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
        attnbias("prepare-data", self.shards, "--in-place", "--root", self.root, expect=0)

    def make_plots(self) -> None:
        """Write images with their label maps, prepare them, and a model for them."""
        draw = np.random.default_rng(1)
        for number, split in enumerate(("train", "train", "val", "val")):
            planes = {"images": draw.integers(0, 256, (40, 40, 3), np.uint8), "labels": np.eye(40, dtype=np.uint8)}
            for kind, values in planes.items():
                (self.plots / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(self.plots / kind / split / f"{number}.png")
        (self.plots / "classes.txt").write_text("soil\nwheat\n")
        attnbias("prepare-data", self.plots, "--root", self.root, expect=0)
        names = {"channels": 8, "aux_channels": 4, "dataset": "plots"}
        write_model(
            self.segmenter, "absvit-segmentation", ("soil", "wheat"), named="mini", task="segmentation", **names
        )

    def make_questions(self) -> None:
        """Write a set of questions, prepare it, a model for it, and a table of questions about its images."""
        source = vqa_tree(self.folder / "vqa")
        attnbias("prepare-data", "vqav2", "--source", source, "--min-answers", 1, "--root", self.root, expect=0)
        classes = open_split("vqav2", "val", self.root).classes
        small = {"image_size": 32, "fusion_width": 32, "fusion_layers": 1, "dataset": "vqav2", "tokenizer": "words"}
        write_model(self.answerer, "absvit-vision-language", classes, named="tiny-vqa", task="vqa", **small)
        images = sorted(path.relative_to(self.folder) for path in (source / "val2014").iterdir())
        rows = ["image,question,id", *(f"{path},What colour is it?,{n}" for n, path in enumerate(images))]
        self.questions.write_text("\n".join(rows) + "\n")

    def writers(self) -> dict[Path, Callable[[], Any]]:
        """Files by which --overwrite tells what a command wrote, and the commands, which write them again."""
        again, images = ("--overwrite", *CPU), self.plots / "images" / "val"
        table = self.written / "table.csv"
        predict = partial(attnbias, "predict", "--load-from", self.steered, images, *again)
        label = partial(attnbias, "predict", "--load-from", self.segmenter, images, *again)
        draw = partial(attnbias, "visualize", "absvit", "--load-from", self.steered, images, *again)
        compare = partial(attnbias, "compare", self.run, self.other, "--overwrite")
        convert = partial(attnbias, "weights", "convert", self.steered, "--overwrite")
        return {
            self.written / "found.json": partial(predict, "--json", self.written / "found.json"),
            table: partial(predict, "--csv", table),
            self.written / "results.json": partial(self.val, "--overwrite", "--json", self.written / "results.json"),
            self.written / "scores.csv": partial(self.val, "--overwrite", "--csv", self.written / "scores.csv"),
            self.written / "labelled" / WRITTEN: partial(label, "--out", self.written / "labelled"),
            self.written / "drawn" / WRITTEN: partial(draw, "--out", self.written / "drawn"),
            self.written / "compared" / WRITTEN: partial(compare, "--out", self.written / "compared"),
            self.written / "report" / WRITTEN: partial(
                compare, "--report", self.written / "report", "--root", self.root
            ),
            self.written / "copy.safetensors": partial(convert, "--to", self.written / "copy.safetensors"),
        }

    def make_table(self) -> None:
        """Write images, masks and the table that lists them."""
        draw, rows = np.random.default_rng(0), ["path,label,split,group,mask,box"]
        for number in range(2 * len(DIGITS)):
            name, split = f"{number}.png", "train" if number < len(DIGITS) else "val"
            pixels, plane = draw.integers(0, 256, (40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8)
            plane[5:20, 5:20] = 255
            for folder, values in (("images", pixels), ("masks", plane)):
                (self.table.parent / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(self.table.parent / folder / name)
            group = ("day", "night")[number % 2]
            rows.append(f'images/{name},{DIGITS[number % 10]},{split},{group},masks/{name},"5,5,15,15"')
        self.table.write_text("\n".join(rows) + "\n")

    def check(self) -> None:
        """Run every command once on a copy of the good files. What it imports is then there, and no alarm cuts it
        short."""
        copy = World(self.folder.with_name(self.folder.name + "-checked"))
        for path, commands in self.readers().items():
            for position in range(len(commands)):
                shutil.copytree(self.folder, copy.folder)
                command = copy.readers()[copy.folder / path.relative_to(self.folder)][position]
                assert command().code == 0, path
                shutil.rmtree(copy.folder)

    def val(self, *more: Any, expect: int | None = None) -> Any:
        return attnbias("val", "csra", "--load-from", self.run, "--root", self.root, *CPU, *more, expect=expect)

    def train(self, *more: Any) -> Any:
        return attnbias("train", "csra", *RUN, *CPU, "--root", self.root, *more)

    def audit(self, model: Path, data: Path | str, *more: Any, expect: int | None = None) -> Any:
        return attnbias("audit", model, data, *QUICK, *CPU, "--root", self.root, *more, expect=expect)

    def readers(self) -> dict[Path, list[Callable[[], Any]]]:
        """Every file that is read back, and commands that read it."""
        dry = partial(self.train, "--out", self.folder / "new", "--dry-run")
        resume = partial(self.train, "--out", self.run, "--resume", "auto")
        inspect = partial(attnbias, "weights", "inspect", next(self.run.glob("checkpoints/*/model.safetensors")))
        compare = partial(attnbias, "compare", self.run, *([self.other] if self.other.exists() else []))
        listed = partial(attnbias, "list", "datasets", "--root", self.root)
        prepare = partial(
            attnbias, "prepare-data", "demo", "--root", self.root, "--train", 12, "--eval", 6, "--size", 32
        )
        audit = partial(self.audit, self.run, "demo", "--out", self.folder / "new")
        again = partial(self.audit, self.run, "demo", "--out", self.audited, *self.for_machines, "--overwrite")
        own = partial(self.audit, self.run, self.table, "--out", self.folder / "new")
        table = partial(attnbias, "prepare-data", self.table, "--root", self.root, "--dry-run")
        steers = ("absvit", "--load-from", self.steered, "--root", self.root, *CPU, "--prior", self.priors)
        draw = partial(attnbias, "visualize", *steers, "--limit", 1, "--out", self.folder / "new")
        priors = partial(attnbias, "priors", self.steered, "--split", "val", *CPU, "--root", self.root)
        made, remade = (
            partial(priors, "--out", self.folder / "new" / "priors.npz"),
            partial(priors, "--out", self.priors),
        )
        demo, checkpoint = self.root / "demo", next(self.run.glob("checkpoints/*"))
        stored = self.run / "evaluations" / "demo" / "val"
        found: dict[Path, list[Callable[[], Any]]] = {
            demo / "prepared.json": [dry, listed, prepare],
            demo / "index" / "train.json": [dry],
            demo / "index" / "val.json": [self.val, dry, audit, made],
            self.run / "recipe.yaml": [compare, resume],
            self.run / "metrics.jsonl": [compare, resume],
            self.run / "environment.json": [resume, compare],
            self.run / "data.json": [resume, compare],
            self.run / "timings.jsonl": [resume],
            checkpoint / "progress.json": [self.val, resume, audit],
            checkpoint / "complete.json": [self.val, resume, audit],
            checkpoint / "model.safetensors": [self.val, inspect, audit],
            self.steered: [made, draw, partial(audit, "--against", self.steered)],
            self.priors: [draw, partial(remade, "--overwrite"), partial(attnbias, "val", *steers, "--bias")],
            self.table: [own, table],
            stored / "evaluation.json": [compare],
            stored / "scores.npz": [compare],
            stored / "robustness.json": [compare],
            stored / "reliance_samples.csv": [compare],
        }
        found |= {path: [compare] for path in stored.glob("bias-*/*")}
        found |= {path: [partial(self.val, "--bias"), audit, made] for path in demo.glob("annotations/*val*.json")}
        found |= {self.table.parent / "masks" / name: [own, table] for name in ("0.png", "15.png")}
        for ending in (".csv", ".json"):
            mapped = ("--class-map", self.class_map(ending))
            val = partial(attnbias, "val", "plain", "--load-from", self.foreign, "--dataset", "demo", *mapped)
            found[self.class_map(ending)] = [
                partial(self.audit, self.foreign, "demo", *mapped, "--out", self.folder / "new"),
                partial(val, "--root", self.root, *CPU),
            ]
        found |= {path: [partial(self.val, "--cache", self.cache)] for path in self.cache.glob("*.images")}
        found |= {path: [again] for path in [*self.audited.glob("*.*"), *self.folder.glob("audit.*")]}
        if self.written.exists():
            found |= self.tasks() | {path: [command] for path, command in self.writers().items()}
        return {path: commands for path, commands in found.items() if path.exists()}

    def tasks(self) -> dict[Path, list[Callable[[], Any]]]:
        """The same of a set of one's own, of label maps, and of questions."""
        rooted = ("--root", self.root, *CPU)
        train = partial(self.train, "--out", self.folder / "new", "--dry-run", "--dataset", "listed")
        own = partial(self.audit, self.run, "listed", "--out", self.folder / "new")
        label = partial(attnbias, "val", "absvit-segmentation", "--load-from", self.segmenter, *rooted)
        plots = partial(attnbias, "prepare-data", self.plots, "--name", "fresh", "--root", self.root, "--dry-run")
        answer = partial(attnbias, "val", "absvit-vision-language", "--load-from", self.answerer, *rooted)
        ask = partial(attnbias, "predict", "--load-from", self.answerer, self.questions, *rooted)
        found: dict[Path, list[Callable[[], Any]]] = {
            self.root / "listed" / "prepared.json": [train, own],
            self.root / "listed" / "index" / "val.json": [train, own],
            self.root / "plots" / "index" / "val.json": [label],
            self.plots / "classes.txt": [plots],
            self.questions: [ask],
            self.answerer: [answer],
            self.segmenter: [label],
        }
        packed = partial(attnbias, "prepare-data", self.shards, "--in-place", "--root", self.root, "--name", "new")
        trained = partial(self.train, "--out", self.folder / "new", "--steps", 1, "--dataset", "shards")
        found |= {path: [packed, trained] for path in self.shards.iterdir()}
        found |= {path: [plots] for path in (self.plots / "labels" / "val").iterdir()}
        prepared = Prepared.read(self.root / "vqav2")
        named = ("prepared.json", f"index/{prepared.named('val')}.json", "tokenizer/*.json")
        found |= {path: [answer] for name in named for path in (self.root / "vqav2").glob(name)}
        return found


# Edits ----------------------------------------------------------------------------------------------------------------


def edited(content: bytes, other: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A file's content after one hand edit, and words for it; `other` is that of another file."""
    plain: dict[str, Callable[[], bytes]] = {
        "emptied": lambda: b"",
        "cut": lambda: content[: draw.randrange(len(content))],
        "another file": lambda: other,
        "a byte": lambda: _with_byte(content, draw),
        "bytes": lambda: _with_byte(_with_byte(content, draw), draw),
        "UTF-16": lambda: content.decode("utf-8", "replace").encode("utf-16"),
        "byte-order mark": lambda: b"\xef\xbb\xbf" + content,
        "latin-1": lambda: content.replace(b"e", b"\xe9", 1),
        "nested": lambda: b"[" * 100_000 + content,
        "twice": lambda: content + content,
        "a line twice": lambda: _lines(content, draw, lambda line: [line, line]),
        "a line less": lambda: _lines(content, draw, lambda line: []),
        "NULs": lambda: content[: len(content) // 2] + b"\0" * 64 + content[len(content) // 2 :],
    }
    if draw.random() < 0.7 and (changed := _structured(content, draw)) is not None:
        return changed
    name = draw.choice(list(plain))
    return name, plain[name]()


def _with_byte(content: bytes, draw: random.Random) -> bytes:
    position = draw.randrange(len(content) or 1)
    return content[:position] + bytes([draw.randrange(256)]) + content[position + 1 :]


def _lines(content: bytes, draw: random.Random, change: Callable[[bytes], list[bytes]]) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    position = draw.randrange(len(lines))
    return b"".join([*lines[:position], *change(lines[position]), *lines[position + 1 :]])


def _structured(content: bytes, draw: random.Random) -> tuple[str, bytes] | None:
    """An edit of a value: of JSON, of a weight file's JSON, of one line of JSON, of a `name: value` line, of a table's
    cell, of an array, or of an image."""
    if content.startswith(b"PK"):
        return _edit_array(content, draw)
    if content.startswith(b"\x89PNG"):
        return _edit_image(content, draw)
    if content.endswith(IMAGES):
        return _edit_behind_images(content, draw)
    size = int.from_bytes(content[:8], "little")
    if 2 < size < len(content) and content[8:9] == b"{":
        header = json.loads(content[8 : 8 + size])
        if draw.random() < 0.8:
            told = json.loads(header["__metadata__"]["attnbias"])
            words, told = _edit_value(told, draw)
            header["__metadata__"]["attnbias"] = json.dumps(told)
        else:
            words, header = _edit_value(header, draw)
        written = json.dumps(header).encode()
        return words, len(written).to_bytes(8, "little") + written + content[8 + size :]
    try:
        words, value = _edit_value(json.loads(content), draw)
        return words, json.dumps(value).encode()
    except ValueError:
        pass
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        return None
    position = draw.randrange(len(lines))
    if lines[position].startswith("{"):
        words, value = _edit_value(json.loads(lines[position]), draw)
        lines[position] = json.dumps(value)
    elif lines[position].count(",") == lines[0].count(",") > 0:
        cells = lines[position].split(",")
        column, value = draw.randrange(len(cells)), str(draw.choice(VALUES))
        words, cells[column] = f"cell {position}, {column}: {value[:40]}", value
        lines[position] = ",".join(cells)
    else:
        name, _, _ = lines[position].partition(":")
        value = draw.choice(
            [*map(json.dumps, VALUES[:-1]), "*a", "&a [*a]", "!!int 3", "[1, 2]", "{a: 1}", "|", ".inf"]
        )
        words, lines[position] = f"{name}: {value[:40]}", f"{name}: {value}"
    return words, "\n".join(lines).encode("utf-8", "surrogatepass")


def _edit_array(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Replace or delete one array of an archive."""
    with np.load(io.BytesIO(content)) as archive:
        arrays: dict[str, Any] = dict(archive)
    name = draw.choice(list(arrays))
    value = arrays[name]
    others: dict[str, Callable[[], Any]] = {
        "a number": lambda: np.array(3),
        "nothing": lambda: np.array([]),
        "None": lambda: np.array([None], dtype=object),
        "texts": lambda: np.array([str(each) for each in VALUES[:-1]]),
        "bytes": lambda: np.array([b"a", b"b"]),
        "complex numbers": lambda: np.ones(value.shape, complex),
        "its first row": lambda: np.atleast_1d(value)[:1],
        "its rows twice": lambda: np.concatenate([np.atleast_1d(value)] * 2),
        "one row for all": lambda: np.repeat(np.atleast_1d(value)[:1], len(np.atleast_1d(value)), 0),
        "an axis more": lambda: value[None],
        "infinity": lambda: np.full(value.shape, np.inf),
        "large numbers": lambda: np.full(value.shape, 1e300),
        "JSON": lambda: np.array(json.dumps(draw.choice(VALUES[:-1]))),
    }
    words = draw.choice([*others, "deleted", "added"])
    if words == "deleted":
        del arrays[name]
    else:
        arrays[name if words != "added" else "strange"] = value if words == "added" else others[words]()
    written = io.BytesIO()
    np.savez(written, **arrays)
    return f"array {name}: {words}", written.getvalue()


def _edit_behind_images(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """An edit of the JSON behind the images of a cache."""
    place = len(content) - len(IMAGES) - 8
    begin = place - int.from_bytes(content[place : place + 8], "big")
    words, value = _edit_value(json.loads(content[begin:place]), draw)
    written = json.dumps(value).encode()
    return words, content[:begin] + written + len(written).to_bytes(8, "big") + IMAGES


def _edit_image(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """The same image in another mode, of another size, or in another format."""
    image, written = Image.open(io.BytesIO(content)), io.BytesIO()
    mode = draw.choice(["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
    side = draw.choice([image.size, image.size[::-1], (1, 1), (4000, 1), (41, 40)])
    ending = draw.choice(["PNG", "PNG", "PNG", "TIFF"])
    image.resize(side).convert(mode).save(written, ending)
    return f"{mode} {side} {ending}", written.getvalue()


def _edit_value(content: Any, draw: random.Random) -> tuple[str, Any]:
    """Replace, delete, double or add one value, anywhere in it."""
    way: list[Any] = []
    place = content
    while isinstance(place, dict | list) and place and (not way or draw.random() < 0.75):
        holder, key = place, draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        way.append(key)
        place = holder[key]
    if not way:
        return "replaced", draw.choice(VALUES)
    what = draw.choice(["replaced", "replaced", "replaced", "deleted", "added"])
    if what == "deleted":
        del holder[key]
    elif what == "added" and isinstance(holder, dict):
        holder["strange"] = draw.choice(VALUES)
    elif what == "added":
        holder.insert(key, draw.choice(VALUES))
    else:
        holder[key] = draw.choice([*VALUES, [place], {"x": place}, str(place)])
    return f"{what} {way}", content


def replaced(path: Path, draw: random.Random) -> str:
    """Put something in a file's place that is not a file, or none."""
    path.unlink()
    kind = draw.choice(["gone", "a folder", "a link to itself", "a link to nothing", "a pipe", "a device"])
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    elif kind == "a link to nothing":
        path.symlink_to("nothing")
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    return kind


# Trying ---------------------------------------------------------------------------------------------------------------


class TooSlow(BaseException):
    """A command did not end in time."""


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def fault(command: Callable[[], Any], counts: Counter[str]) -> str | None:
    """Run a command and count its exit code; what is wrong with how it ended, if anything."""
    begun = time.process_time()
    try:
        with in_time(HANGS):
            result = command()
    except TooSlow:
        return f"hangs ({HANGS} s)"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    said = result.err.splitlines()
    counts[f"exit {result.code}"] += 1
    if result.code not in (0, 2, 3):
        return f"exit {result.code}: {said[-1:]}"
    if result.code and not (1 <= len(said) <= 2 and len(result.err) < 3000):
        return f"says {len(said)} lines, {len(result.err)} letters: {said[:2]}"
    if "Traceback" in result.out + result.err:
        return "shows a traceback"
    taken = time.process_time() - begun
    return f"took {taken:.0f} s" if taken > LIMIT else None


def fuzz(pristine: Path, edits: int, seed: int, tell: Callable[[str], None] = print) -> Counter[str]:
    """Make one edit at a time in a copy of the world in `pristine`, and run the commands that read that file.

    Returns how many edits were tried, how the commands ended, and how many went wrong; each of those is told.
    """
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (6 << 30), resource.RLIM_INFINITY))
    draw, counts = random.Random(seed), Counter[str]()
    world = World(pristine.with_name(pristine.name + "-edited"))
    shutil.rmtree(world.folder, ignore_errors=True)
    shutil.copytree(pristine, world.folder)
    names = [path.relative_to(world.folder) for path in world.readers()]
    for _ in range(edits):
        name = draw.choice(names)
        path, good = world.folder / name, (pristine / name).read_bytes()
        command = draw.choice(world.readers()[path])
        if draw.random() < 0.1:
            words = replaced(path, draw)
        else:
            words, content = edited(good, (pristine / draw.choice(names)).read_bytes(), draw)
            path.write_bytes(content)
        counts["edits"] += 1
        if (wrong := fault(command, counts)) is not None:
            counts["faults"] += 1
            tell(f"{name}  {words[:120]!r}: {wrong[:400]}")
        shutil.rmtree(world.folder)
        shutil.copytree(pristine, world.folder)
    shutil.rmtree(world.folder)
    return counts


def main() -> None:
    folder, edits, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    if not folder.exists():
        World(folder).make()
    World(folder).check()
    counts = fuzz(folder, edits, seed, partial(print, flush=True))
    print(", ".join(f"{count:,} {what}" for what, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
