"""Files of a data set and of a run, edited as people and accidents do, and the commands that read each of them.

python -m tests.helpers.hand_edits FOLDER EDITS [SEED]     # prints what ended otherwise than with 0, 2 or 3 and a line
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from tests.helpers.command_line import attnbias

LIMIT = 20
"""Seconds that a command may take; a good one takes one."""

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 10**400, 0.5, -1e308, 1e308, float("nan"), float("inf")),
    *("", "x", "3", "..", "../../etc/passwd", "/dev/zero", "a\0b", "\ud800", "[/b]", "\x1b[31m", "x" * 100_000),
    *([], {}, [[]], [None], {"x": 1}, [0] * 10_000, ["a"] * 200_000),
]  # fmt: skip

RUN = ("--recipe", "demo", "--backbone", "tiny", "--image-size", 32, "--epochs", 1, "--batch-size", 6)
CPU = ("--gpus", 0, "--threads", 1)


@dataclass(frozen=True)
class World:
    """A demo set and a run that was trained and evaluated on it."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def make(self) -> None:
        """Prepare, train, evaluate."""
        attnbias("prepare-data", "demo", "--root", self.root, "--train", 12, "--eval", 6, "--size", 32, expect=0)
        attnbias("train", "csra", *RUN, *CPU, "--root", self.root, "--out", self.run, expect=0)
        self.val("--store", "--bias", "--attack", "fgsm", expect=0)

    def check(self) -> None:
        """Run every command once on the good files. What it imports is then there, and no alarm cuts it short."""
        for path, commands in self.readers().items():
            for command in commands:
                assert command().code == 0, path

    def val(self, *more: Any, expect: int | None = None) -> Any:
        return attnbias("val", "csra", "--load-from", self.run, "--root", self.root, *CPU, *more, expect=expect)

    def train(self, *more: Any) -> Any:
        return attnbias("train", "csra", *RUN, *CPU, "--root", self.root, *more)

    def readers(self) -> dict[Path, list[Callable[[], Any]]]:
        """Every file that is read back, and commands that read it."""
        dry = partial(self.train, "--out", self.folder / "new", "--dry-run")
        resume = partial(self.train, "--out", self.run, "--resume", "auto")
        inspect = partial(attnbias, "weights", "inspect", next(self.run.glob("checkpoints/*/model.safetensors")))
        compare = partial(attnbias, "compare", self.run, self.run)
        listed = partial(attnbias, "list", "datasets", "--root", self.root)
        prepare = partial(
            attnbias, "prepare-data", "demo", "--root", self.root, "--train", 12, "--eval", 6, "--size", 32
        )
        demo, checkpoint = self.root / "demo", next(self.run.glob("checkpoints/*"))
        stored = self.run / "evaluations" / "demo" / "val"
        found: dict[Path, list[Callable[[], Any]]] = {
            demo / "prepared.json": [dry, listed, prepare],
            demo / "index" / "train.json": [dry],
            demo / "index" / "val.json": [self.val, dry],
            self.run / "recipe.yaml": [compare, resume],
            self.run / "metrics.jsonl": [compare, resume],
            self.run / "environment.json": [resume],
            self.run / "data.json": [resume],
            checkpoint / "progress.json": [self.val, resume],
            checkpoint / "complete.json": [self.val, resume],
            checkpoint / "model.safetensors": [self.val, inspect],
            stored / "evaluation.json": [compare],
            stored / "scores.npz": [compare],
            stored / "robustness.json": [compare],
            stored / "reliance_samples.csv": [compare],
        }
        found |= {path: [compare] for path in stored.glob("bias-*/*")}
        found |= {path: [partial(self.val, "--bias")] for path in demo.glob("annotations/*val*.json")}
        return {path: commands for path, commands in found.items() if path.exists()}


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
    """An edit of a value: of JSON, of a weight file's JSON, of one line of JSON, or of a `name: value` line."""
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
    else:
        name, _, _ = lines[position].partition(":")
        value = draw.choice(
            [*map(json.dumps, VALUES[:-1]), "*a", "&a [*a]", "!!int 3", "[1, 2]", "{a: 1}", "|", ".inf"]
        )
        words, lines[position] = f"{name}: {value[:40]}", f"{name}: {value}"
    return words, "\n".join(lines).encode()


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
    begun = time.monotonic()
    try:
        with in_time(LIMIT):
            result = command()
    except TooSlow:
        return f"hangs ({LIMIT} s)"
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
    return f"took {time.monotonic() - begun:.0f} s" if time.monotonic() - begun > LIMIT / 2 else None


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
