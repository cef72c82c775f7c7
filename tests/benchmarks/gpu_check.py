"""`make gpu-check`: everything worth knowing of a machine with a GPU, in about ten minutes; without one, a rehearsal.

    python tests/benchmarks/gpu_check.py [--rehearse] [--only SECTION,...] [--seconds N] [--jpegs DIR] [--out DIR]

| section | what is found |
| --- | --- |
| machine | what `attnbias doctor` says |
| parity | loss, gradients, scores and maps of each method against the CPU's; scores in TF32, bf16 and channels last |
| training | twelve steps of each method by the engine, in each precision, and with each way to compute; peak memory |
| resume | whether two equal runs, and one that was resumed, have the same bytes, with and without --deterministic |
| processes | two processes, with and without SyncBN: over NCCL where there are two GPUs, else both on one, over gloo |
| waits | where steps wait for the GPU, by PyTorch's own debug mode |
| speed | images a second of a training step on images that are there: ResNet-101 at 448, ViT-B at 224, Swin-B at 384 |
| input | the same by the engine from JPEG files, against its speed without them |

gpu_check.json and gpu_check.md are written after each section, so that what was measured is kept where time ends. A
rehearsal does all of it small on the CPU; its figures mean nothing. A section that fails is noted, and the next begins.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from torch import Tensor, nn

from attnbias.data.prepare import prepare
from attnbias.data.sets.contract import PrepareOptions
from attnbias.methods.engine.batches import moved
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.doctor import doctor
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.kernels import compute_exactly, in_precision, in_tf32
from attnbias.methods.engine.launch import place
from attnbias.methods.engine.maps import attention_maps
from attnbias.methods.engine.recipe import Recipe, override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.optim import build_optimizer
from attnbias.methods.engine.training.setup import build_accelerator
from attnbias.methods.engine.training.train import _Run, train

METHODS = ("csra", "ida", "lsas", "absvit", "llb")
CLASSES = 10
LEFT = 20
"""Seconds that a section needs to be begun."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """The machine that is checked, and how much of it."""

    device: torch.device
    small: bool
    """A rehearsal: few and small cases."""
    folder: Path
    """For runs and datasets."""
    jpegs: Path | None
    ends: float

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def methods(self) -> tuple[str, ...]:
        return METHODS[:1] if self.small else METHODS

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    @property
    def datasets(self) -> Path:
        """A data root with the demo set."""
        root = self.folder / "datasets"
        if not root.exists():
            count = 16 if self.small else 512
            prepare("demo", None, root, PrepareOptions(settings={"train": count, "eval": min(count, 64)}))
        return root

    def finish(self) -> None:
        """Wait for what was queued."""
        if self.on_gpu:
            torch.cuda.synchronize()


def recipe_of(name: str, recipe: str = "demo", **changes: Any) -> Recipe:
    return override(get_method(name).named_recipe(recipe).recipe, changes)


def distance(one: Tensor, other: Tensor) -> float:
    """How far one is from the other, as a part of the other's length."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    return float(f"{float((one - other).norm() / other.norm().clamp_min(1e-12)):.2g}")


# Sections -------------------------------------------------------------------------------------------------------------


def machine(check: Check) -> Iterator[Row]:
    for finding in doctor():
        yield {"what": finding.name, "value": finding.value, "verdict": finding.verdict, "advice": finding.advice}


def parity(check: Check) -> Iterator[Row]:
    """Differences are parts of the CPU's length; float32 as it stands but for the columns that say otherwise."""
    compute_exactly()
    for name in check.methods:
        method: Any = get_method(name)
        recipe = recipe_of(name, **({"backbone": "tiny"} if name == "csra" and check.small else {}))
        draw = torch.Generator().manual_seed(1)
        images = torch.randn(8, 3, recipe.image_size, recipe.image_size, generator=draw)
        batch = {"image": images, "target": (torch.rand(8, CLASSES, generator=draw) < 0.3).float()}
        models: list[nn.Module] = []
        sums: list[tuple[Tensor, Tensor]] = []
        for device in (torch.device("cpu"), check.device):
            torch.manual_seed(0)
            model = method.build_model(recipe, CLASSES, "multilabel").to(device).train()
            loss = method.loss(model, moved(batch, device), recipe, "multilabel")["loss"]
            loss.backward()
            gradients = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
            sums.append((loss, torch.cat(gradients)))
            models.append(model.eval())
        row: Row = {"method": name, "loss": distance(sums[1][0], sums[0][0])}
        row["gradients"] = distance(sums[1][1], sums[0][1])
        there = images.to(check.device)
        with torch.no_grad():
            expected = method.predict(models[0], images, "multilabel")["scores"]

            scores = partial(scores_from, method, models[1], expected)
            row["scores"] = scores(there)
            maps = []
            for kind in (None, *method.maps, "gradcam"):
                with contextlib.suppress(UsageError):  # this network has no such map
                    both = [
                        attention_maps(method, model, seen, torch.tensor([1, 3]), kind)
                        for model, seen in zip(models, (images, there), strict=True)
                    ]
                    maps.append(distance(both[1], both[0]))
            row["worst map"] = max(maps)
            with in_tf32(allowed=check.on_gpu):
                row["scores in TF32"] = scores(there)
            with in_precision("bf16", check.device):
                row["scores in bf16"] = scores(there)
            models[1].to(memory_format=torch.channels_last)
            row["scores, channels last"] = scores(there.contiguous(memory_format=torch.channels_last))
        yield row


def scores_from(method: Any, model: nn.Module, expected: Tensor, images: Tensor) -> float:
    """How far a model's scores are from those that are expected."""
    return distance(method.predict(model, images, "multilabel")["scores"].float(), expected)


def request_of(check: Check, name: str, recipe: Recipe, out: Path, **options: Any) -> TrainRequest:
    asked: dict[str, Any] = {"data_root": check.datasets, "log_every": 1, "overwrite": "resume" not in options}
    asked |= {"gpus": int(check.on_gpu), "workers": 0, "threads": None if check.on_gpu else 1, "eval_batch_size": 64}
    return place(TrainRequest(method=name, recipe=recipe, out=out, **asked | options))


def trained(check: Check, name: str, recipe: Recipe, out: Path, **options: Any) -> Row:
    """A run of the engine: its losses, its seconds, its memory."""
    forget()
    if check.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    begun = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        train(request_of(check, name, recipe, out, **options))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    row: Row = {"first loss": round(losses[0], 4), "last loss": round(losses[-1], 4)}
    row["seconds"] = round(time.monotonic() - begun, 1)
    if check.on_gpu:
        row["peak MiB"] = torch.cuda.max_memory_allocated() // 2**20
    return row


def forget() -> None:
    """Accelerate keeps one device and one precision for a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def training(check: Check) -> Iterator[Row]:
    base = {"steps": 2 if check.small else 12, "batch_size": 8 if check.small else 64, "ema_decay": 0.9}
    base |= {"image_size": 32} if check.small else {}
    precisions = ("no", "bf16", "fp16") if check.on_gpu else ("no", "bf16")
    for name in check.methods:
        for amp in precisions:
            recipe = recipe_of(name, **base, amp=amp)
            yield {"method": name, "how": f"amp {amp}"} | trained(check, name, recipe, check.folder / "run")
    ways: dict[str, dict[str, Any]] = {
        "no TF32": {"tf32": False},
        "channels first": {"channels_last": False},
        "accumulation 2": {"accumulation": 2},
        "deterministic": {"deterministic": True},
        "workers 2": {"workers": 2},
    }
    ways |= {} if check.small else {"compile": {"compile": True}}
    for how, options in ways.items():
        if check.left < LEFT:
            return
        row = trained(check, "csra", recipe_of("csra", **base), check.folder / "run", **options)
        yield {"method": "csra", "how": how} | row


def resume(check: Check) -> Iterator[Row]:
    size = {"image_size": 32} if check.small else {}
    recipe = recipe_of("csra", steps=4, eval_steps=4, batch_size=8, ema_decay=0.9, **size)
    for deterministic in (False, True):
        one, other = check.folder / "straight", check.folder / "resumed"
        how: dict[str, Any] = {"deterministic": deterministic, "save_steps": 2, "keep": 9}
        for out in (one, other):
            trained(check, "csra", recipe, out, **how)

        row: Row = {"kernels": "deterministic" if deterministic else "the fastest", "two equal runs": equal(one, other)}
        shutil.rmtree(other / "checkpoints/step-00000004")
        trained(check, "csra", recipe, other, **how, resume="auto")
        yield row | {"a resumed run": equal(one, other)}


def equal(one: Path, other: Path) -> bool:
    """Whether two runs ended in the same weights, byte by byte."""
    end, names = "checkpoints/step-00000004", ["model.safetensors", "ema.safetensors"]
    return filecmp.cmpfiles(one / end, other / end, names, shallow=False)[0] == names


def processes(check: Check) -> Iterator[Row]:
    for sync_bn in (False, True) if check.on_gpu else (False,):
        out = check.folder / "processes"
        shutil.rmtree(out, ignore_errors=True)
        apart = torch.cuda.device_count() > 1
        environment = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571"}
        started = [
            subprocess.Popen(
                [sys.executable, __file__, "--process", str(out), str(check.datasets), str(int(sync_bn))],
                env={**os.environ, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank if apart else 0)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        words = [process.communicate(timeout=300)[1][-300:] for process in started]
        row: Row = {"SyncBN": sync_bn, "over": "nccl" if apart else "gloo"}
        if any(process.returncode for process in started):
            yield row | {"failed": " | ".join(words)}
            continue
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        yield row | {"losses": [round(line["loss"], 4) for line in lines if line["split"] == "train"]}


def be_one_of_two(out: str, datasets: str, sync_bn: str) -> None:
    """A process of the section above: two on one GPU can only talk over gloo."""
    on_gpu = torch.cuda.is_available()
    if torch.cuda.device_count() < 2:
        torch.distributed.init_process_group("gloo")
    recipe = recipe_of("csra", steps=3, batch_size=16, sync_bn=sync_bn == "1", image_size=32)
    asked: dict[str, Any] = {"data_root": Path(datasets), "gpus": int(on_gpu), "workers": 0, "threads": 1}
    train(TrainRequest(method="csra", recipe=recipe, out=Path(out), log_every=1, **asked))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def waits(check: Check) -> Iterator[Row]:
    if not check.on_gpu:
        yield {"method": "all", "waits": "needs CUDA; tests/engine/test_pretended_device.py counts them on a CPU"}
        return
    for name in check.methods:
        recipe = recipe_of(name, batch_size=32, ema_decay=0.9, clip_grad=1.0)
        run = ready(check, request_of(check, name, recipe, check.folder / "run"))
        run.stepper.step(0)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in (1, 2, 3):
                run.stepper.step(step)
        torch.cuda.set_sync_debug_mode("default")
        run.folder.close()
        places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
        yield {"method": name, "waits in 3 steps": ", ".join(f"{place} {count}" for place, count in places.items())}


def ready(check: Check, request: TrainRequest) -> _Run:
    """A run before its first step."""
    forget()
    run = _Run(request, build_accelerator(request), RunFolder(request.out), Control())
    run._prepare(run._open_folder())
    return run


def networks(check: Check) -> dict[str, tuple[Recipe, int]]:
    """What is timed: a recipe of CSRA, whose head costs next to nothing, and a batch."""
    if check.small:
        return {"tiny at 32": (recipe_of("csra", backbone="tiny", image_size=32), 4)}
    shapes = {"resnet101": (448, 64), "vit_base_patch16_224": (224, 128), "swin_base_patch4_window12_384": (384, 64)}
    return {
        f"{name} at {size}": (recipe_of("csra", backbone=name, image_size=size, optimizer="adamw"), count)
        for name, (size, count) in shapes.items()
    }


WAYS = {"float32": "no", "TF32": "tf32", "bf16": "bf16", "fp16": "fp16", "bf16, compiled": "bf16"}
"""How a network is timed, and the precision of that."""


def speed(check: Check) -> Iterator[Row]:
    for label, (recipe, count) in networks(check).items():
        for how, amp in WAYS.items():
            compiled = how.endswith("compiled")
            if check.left > (90 if compiled else LEFT) and (check.on_gpu or how in ("float32", "bf16")):
                yield {"network": label, "how": how, "batch": count} | rate(check, recipe, count, amp, compiled)


def rate(check: Check, recipe: Recipe, count: int, amp: str, compiled: bool) -> Row:
    """Images a second of a training step on images that are on the device, and the memory that it takes."""
    method: Any = get_method("csra")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    model = method.build_model(recipe, 80, "multilabel").to(check.device).train()
    images = torch.randn(count, 3, recipe.image_size, recipe.image_size, device=check.device)
    if sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1:
        model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    batch = {"image": images, "target": torch.zeros(count, 80, device=check.device)}
    optimizer = build_optimizer(method.param_groups(model, recipe), recipe, fused=check.on_gpu)
    scaler = torch.amp.GradScaler(check.device.type, enabled=amp == "fp16")
    called = torch.compile(model) if compiled else model

    def seconds(steps: int) -> float:
        begun = time.monotonic()
        for _ in range(steps):
            with in_precision(amp, check.device):
                loss = method.loss(called, batch, recipe, "multilabel")["loss"]
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        check.finish()
        return time.monotonic() - begun

    row: Row = {"warm-up s": round(seconds(1 if check.small else 3), 1)}
    if check.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    steps = 1 if check.small else 12
    row["images/s"] = round(count * steps / seconds(steps), 1)
    if check.on_gpu:
        row["peak MiB"] = torch.cuda.max_memory_allocated() // 2**20
    return row


def photographs(check: Check) -> Path:
    """A data root with a set of JPEG files: those that were given, or smooth noise of a photograph's size."""
    root, folder = check.folder / "jpegs", check.folder / "images"
    count = 16 if check.small else 2048
    given = sorted(check.jpegs.rglob("*.jpg")) if check.jpegs else []
    draw = np.random.default_rng(0)
    for position in range(count):
        path = folder / f"{position % 2}" / f"{position}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if given:
            path.symlink_to(given[position % len(given)].resolve())
        else:
            coarse = Image.fromarray(draw.integers(0, 255, (30, 40, 3), dtype=np.uint8))
            coarse.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
    prepare(str(folder), None, root, PrepareOptions(settings={"val_fraction": 0.1}))
    return root


def input(check: Check) -> Iterator[Row]:
    """By the engine, with its loader; the first steps are left out."""
    root = photographs(check)
    recipe, count = next(iter(networks(check).values()))
    amp = "bf16" if check.on_gpu else "no"
    recipe = override(recipe, {"dataset": "images", "batch_size": count, "amp": amp, "epochs": 99})
    for workers in (0,) if check.small else (4, 8, 16):
        if check.left < LEFT:
            return
        request = request_of(check, "csra", recipe, check.folder / "run", data_root=root, workers=workers)
        run = ready(check, request)
        warm, timed = (1, 2) if check.small else (8, 24)
        for step in range(warm + timed):
            if step == warm:
                check.finish()
                begun = time.monotonic()
            with run.kernels.chosen():
                run.stepper.step(step)
        check.finish()
        rate = round(timed * count / (time.monotonic() - begun), 1)
        run.folder.close()
        del run.stepper
        yield {"workers": workers, "files": "given" if check.jpegs else "drawn", "images/s": rate}


SECTIONS: dict[str, Callable[[Check], Iterator[Row]]] = {
    section.__name__: section for section in (machine, parity, training, resume, processes, waits, speed, input)
}


def measure(name: str, check: Check, rows: list[Row]) -> None:
    """Fill `rows` by a section; where it fails, its last row says how."""
    try:
        if check.left < LEFT:
            rows.append({"skipped": "no time is left"})
            return
        rows.extend(SECTIONS[name](check))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        rows.append({"failed": f"{type(error).__name__}: {error}", "at": f"{Path(where.filename).name}:{where.lineno}"})


def markdown(found: dict[str, list[Row]], title: str) -> str:
    """A table a section; its columns are those of its rows."""
    parts = [f"# {title}"]
    for name, rows in found.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        lines = [columns, ["---"] * len(columns)]
        lines += [[str(row.get(column, "")).replace("|", "/").replace("\n", " ") for column in columns] for row in rows]
        parts += ["", f"## {name}", "", *(f"| {' | '.join(line)} |" for line in lines)]
    return "\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="small, on the CPU, also where there is a GPU")
    parser.add_argument("--only", default="", help="sections, comma-separated")
    parser.add_argument("--seconds", type=float, default=600, help="no section begins later")
    parser.add_argument("--jpegs", type=Path, help="folder of photographs for the section `input`")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--process", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.process:
        be_one_of_two(*asked.process)
        return 0
    small = asked.rehearse or not torch.cuda.is_available()
    device = torch.device("cpu" if small else "cuda")
    title = "A rehearsal on the CPU: the figures mean nothing" if small else f"{torch.cuda.get_device_name()}, measured"
    wanted = [name for name in SECTIONS if not asked.only or name in asked.only.split(",")]
    asked.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check = Check(device, small, Path(folder), asked.jpegs, time.monotonic() + asked.seconds)
        for name in wanted:
            begun = time.monotonic()
            measure(name, check, found.setdefault(name, []))
            (asked.out / "gpu_check.json").write_text(json.dumps({"title": title, **found}, indent=1) + "\n")
            (asked.out / "gpu_check.md").write_text(markdown(found, title))
            print(f"{name}: {len(found[name])} rows, {time.monotonic() - begun:.0f} s", flush=True)
    failed = [name for name, rows in found.items() if any("failed" in row for row in rows)]
    print(f"written: {asked.out / 'gpu_check.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
