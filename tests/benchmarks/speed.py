"""`make bench`: speed as ratios to a baseline that runs in the same process, step by step in turn; medians.

Writes tests/benchmarks/results/speed.json and prints the same as a table. Absolute figures belong to the machine that
the file names; the ratios travel. Cases: the engine against a bare PyTorch loop, each method's head or network against
its bare backbone, the loaders, the measures, and the command line's start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from attnbias.data.datasets import PictureDataset
from attnbias.data.index import Index, Record
from attnbias.data.pictures import Decode
from attnbias.data.prepare import Options as PrepareOptions
from attnbias.data.prepare import prepare
from attnbias.methods import get_method
from attnbias.methods.engine.checkpoint import RunFolder
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.measures import multilabel_measures
from attnbias.methods.engine.options import Options
from attnbias.methods.engine.recipe import revise
from attnbias.methods.engine.train import _Run, build_accelerator

RESULTS = Path(__file__).parent / "results"


def medians(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Run both in turn; the median CPU time of each in seconds, and the median of the ratios of neighbours.

    CPU time of one thread: a shared machine lengthens the wall clock, but hardly that.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for place, call in enumerate((first, second)):
            start = time.process_time()
            call()
            if turn:  # the first round warms up
                times[place].append(time.process_time() - start)
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    return statistics.median(times[0]), statistics.median(times[1]), ratio


def compare(name: str, ours: Callable[[], Any], base: Callable[[], Any], rounds: int, target: float) -> dict[str, Any]:
    first, second, ratio = medians(ours, base, rounds)
    return {"case": name, "ours_ms": 1e3 * first, "baseline_ms": 1e3 * second, "ratio": ratio, "target": target}


def engine(rounds: int) -> Iterator[dict[str, Any]]:
    """A step of the engine (loader, guard, schedule, agreement) against a bare loop on the same model and pictures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare("demo", None, root, PrepareOptions(settings={"train": 200, "eval": 10}))
        method = get_method("csra")
        recipe = revise(
            method.named_recipe("demo").recipe,
            {"backbone": "resnet18", "image_size": 160, "batch_size": 8, "epochs": 20},
        )
        options = Options(out=root / "run", data_root=root, cpu=True)
        accelerator = build_accelerator(recipe, options)
        run = _Run(method, recipe, options, accelerator, RunFolder(options.out), Control())
        run.reporter = None
        run._prepare(run._open_folder())

        bare = method.build_model(recipe, 10, "multilabel")
        optimizer = torch.optim.AdamW(bare.parameters(), lr=1e-4)
        loader = DataLoader(run.dataset, batch_size=8, shuffle=True, drop_last=True)

        def batches() -> Iterator[dict[str, Any]]:
            while True:
                yield from loader

        stream = batches()

        def bare_step() -> None:
            batch = next(stream)
            loss = F.binary_cross_entropy_with_logits(bare(batch["image"]), batch["target"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        yield compare("engine step / bare loop (ResNet-18, 160 px, batch 8)", run._step, bare_step, rounds, 1.03)


def heads(rounds: int) -> Iterator[dict[str, Any]]:
    """The forward pass of whole models against their bare backbone, 448 px."""
    images = torch.rand(1, 3, 448, 448)
    cases = [
        ("csra", "coco-resnetcut", 1.01, "CSRA, 6 heads"),
        ("ida", "coco-resnet101-448-light", 1.03, "IDA light"),
        ("ida", "coco-resnet101-448-heavy", 1.09, "IDA heavy"),
    ]
    for name, recipe_name, target, words in cases:
        method = get_method(name)
        model = method.build_model(method.named_recipe(recipe_name).recipe, 80, "multilabel").eval()
        bare = torch_backbone().eval()
        with torch.no_grad():
            yield compare(
                f"{words} / bare ResNet-101, forward 448 px",
                lambda m=model: m(images),
                lambda b=bare: b(images),
                rounds,
                target,
            )


def torch_backbone() -> nn.Module:
    from torchvision.models import resnet101

    return nn.Sequential(*list(resnet101().children())[:-2])


def photographs(folder: Path) -> dict[str, list[Path]]:
    """COCO photographs where they stand beside the repository, else a made-up file of their size; and a large one."""
    real = Path(__file__).parents[3] / "shared" / "data" / "coco128" / "images"
    files, words = sorted(real.rglob("*.jpg"))[:24], "COCO photographs"
    if not files:
        noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(folder / "made_up.jpg", quality=90)
        files, words = [folder / "made_up.jpg"], "a made-up 640 x 480 JPEG"
    with Image.open(files[0]) as picture:
        picture.resize((4000, 3000)).save(folder / "large.jpg", quality=92)
    return {words: files, "a JPEG of 12 megapixels": [folder / "large.jpg"]}


def loaders(rounds: int) -> Iterator[dict[str, Any]]:
    """From the file to the tensor at 448 px on one core: samples a second, and `--decode fast` against exact."""
    with tempfile.TemporaryDirectory() as folder:
        for (words, files), target in zip(photographs(Path(folder)).items(), (80, None), strict=True):
            index = Index("some", "train", "multilabel", ("a",), Path("/"), tuple(Record(str(f), (1,)) for f in files))

            def opened(name: str, train: bool, decode: Decode, index: Index = index) -> PictureDataset:
                method = get_method(name)
                recipe = method.named_recipe(method.default_recipe("coco")).recipe
                return method.open_dataset(recipe, index, train=train, decode=decode)

            def read(dataset: PictureDataset) -> None:
                for place in range(len(dataset)):
                    dataset[place]

            for name, train in (("csra", True), ("csra", False), ("ida", True)):
                what = f"{name} {'training' if train else 'evaluation'}, {words} -> 448 px"
                exact = opened(name, train, "exact")
                fast = exact if name == "ida" else opened(name, train, "fast")  # IDA's training needs PIL pictures
                spent, base, ratio = medians(partial(read, fast), partial(read, exact), rounds)
                yield {"case": f"{what}: samples/s", "per_second": len(files) / base, "target": target}
                if fast is not exact:
                    times = {"ours_ms": 1e3 * spent / len(files), "baseline_ms": 1e3 * base / len(files)}
                    yield {"case": f"{what}: fast / exact", **times, "ratio": ratio}
            exact, fast = (opened("csra", False, decode) for decode in ("exact", "fast"))
            levels = torch.stack([255 * (exact[i]["image"] - fast[i]["image"]).abs() for i in range(len(exact))])
            for what, value in (("largest", levels.max()), ("mean", levels.mean())):
                yield {"case": f"{words}: {what} difference of fast and exact, of 255 levels", "levels": float(value)}


def measures(rounds: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    scores = rng.random((40_504, 80), dtype=np.float32)
    targets = (rng.random((40_504, 80)) < 0.04).astype(np.int64)
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        multilabel_measures(targets, scores)
        spent.append(time.process_time() - start)
    yield {"case": "all measures of 40,504 x 80 scores, CPU s", "seconds": statistics.median(spent), "target": 0.5}


def start_up(rounds: int) -> Iterator[dict[str, Any]]:
    for arguments in (["--help"], ["list", "recipes"], ["train", "csra", "--help"]):
        spent = []
        for _ in range(rounds):
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            subprocess.run([sys.executable, "-m", "attnbias", *arguments], check=True, stdout=subprocess.DEVNULL)
            spent.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
        yield {
            "case": f"attnbias {' '.join(arguments)}: user CPU s",
            "seconds": statistics.median(spent),
            "target": 0.6,
        }


def main() -> None:
    cases = {"engine": engine, "heads": heads, "loaders": loaders, "measures": measures, "start-up": start_up}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=cases, action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in arguments.only or cases for row in cases[name](arguments.rounds)]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("case", "ours", "baseline", "ratio", "target"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        ours = row.get("ours_ms", row.get("per_second", row.get("seconds", row.get("levels"))))
        cells = [ours, row.get("baseline_ms"), row.get("ratio"), row.get("target")]
        table.add_row(row["case"], *("" if cell is None else f"{cell:.3g}" for cell in cells))
    Console(width=120).print(table)
    if not arguments.only:
        RESULTS.mkdir(exist_ok=True)
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__, "threads": 1}
        (RESULTS / "speed.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
