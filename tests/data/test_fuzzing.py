"""Fuzzing: good files changed at random (seeded) for a minute each; a reader reads them or refuses them in one line."""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbias.data.errors import DataError
from attnbias.data.images import read_image
from attnbias.data.sets.coco import read_coco
from attnbias.methods.engine.stored import stored_method
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import load_strict, read_checkpoint
from tests.helpers.good_files import GOOD, KINDS, annotations, check_index, network, written

FUZZING = 60.0
"""Seconds a target."""


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A good file with some of its bytes changed, cut out, doubled or put elsewhere."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        place, length = draw.randrange(len(changed) + 1), draw.choice([1, 1, 2, 4, 8, 32, 200])
        what = draw.randrange(6)
        if what == 0:
            changed[place : place + length] = draw.randbytes(length)
        elif what == 1:
            changed[place : place + 1] = (
                bytes([changed[place] ^ 1 << draw.randrange(8)]) if place < len(changed) else b""
            )
        elif what == 2:
            del changed[place : place + length]
        elif what == 3:
            other = draw.randrange(len(changed) + 1)
            changed[place:place] = changed[other : other + length]
        elif what == 4:
            changed[place : place + length] = (
                draw.choice([b"\x00", b"\xff", b"9", b'"', b"{", b"]", b"-", b"e"]) * length
            )
        else:
            changed = changed[: draw.randrange(len(changed) + 1)]
    return bytes(changed)


def checkpoint_target(path: Path) -> None:
    stored_method(path)
    checkpoint = read_checkpoint(path)
    load_strict(network(), checkpoint.state, path)


def coco_target(path: Path) -> None:
    check_index(read_coco(path, path.parent))


def image_target(path: Path) -> None:
    assert read_image(path).mode == "RGB"


def seeds_of(target: Callable[[Path], None], folder: Path) -> list[tuple[str, bytes]]:
    if target is checkpoint_target:
        return [(Path(kind).suffix, written(kind, folder).read_bytes()) for kind in KINDS]
    if target is coco_target:
        return [(".json", json.dumps(annotations()).encode())]
    return [(".png", content) for content in GOOD.values()]


def fuzz(target: Callable[[Path], None], folder: Path, seconds: float, seed: int) -> None:
    """Feed changed files to a reader; whatever else it raises ends the process.

    It may take 4 GB of memory: a file of some kilobytes that makes it ask for more is refused by the system.
    """
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), resource.RLIM_INFINITY))
    draw, seeds, begun, tried = random.Random(seed), seeds_of(target, folder), time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        suffix, content = draw.choice(seeds)
        path = folder / f"changed{suffix}"
        path.write_bytes(mutated(content, draw))
        tried += 1
        try:
            target(path)
        except (DataError, WeightsError) as error:
            said = str(error)
            if "\n" in said or str(path) not in said:
                raise
    (folder / "tried").write_text(str(tried))


def survives(target: Callable[[Path], None], folder: Path, seconds: float, seed: int) -> int:
    """Fuzz in a process of its own, as a crash is a fault too; return how many files it was given."""
    process = multiprocessing.get_context("fork").Process(target=fuzz, args=(target, folder, seconds, seed))
    process.start()
    process.join(seconds + 60)
    assert process.exitcode == 0, f"ended with {process.exitcode} on {[*folder.glob('changed*')]}"
    return int((folder / "tried").read_text())


TARGETS = [checkpoint_target, coco_target, image_target]


@pytest.mark.parametrize("target", TARGETS)
def test_some_changed_files(target: Callable[[Path], None], tmp_path: Path) -> None:
    assert survives(target, tmp_path, 2.0, 1) > 10


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_minute_of_changed_files(target: Callable[[Path], None], tmp_path: Path) -> None:
    print(f"\n{target.__name__}: {survives(target, tmp_path, FUZZING, 0):,} files")
