"""`make bench`: how fast it is, as ratios to baselines that run in the same process, against the targets.

    python tests/benchmarks/speed.py [--only GROUP ...] [--rounds N]

| group | what is measured | file |
| --- | --- | --- |
| forward | each method's forward pass against its bare network of torchvision or timm | speed_models.py |
| training | each method's training step against fine-tuning its bare network | speed_models.py |
| engine | a step and an evaluation of the engine against bare loops, same model and images | speed_engine.py |
| checkpoint | saving, and resuming, a ResNet-101 with its optimiser's state and moving average | speed_engine.py |
| loaders | from the file to the tensor on one core, exact and fast decoding | speed_data.py |
| input | from files to batches, against the way of before, timm and torchvision; workers, memory | speed_input.py |
| measures | all measures of 40,504 x 80 scores | speed_data.py |
| index | annotations of COCO's size: reading, writing the index, reading it back | speed_data.py |
| audit | an audit against the passes through the network that it needs | speed_audit.py |
| start-up | the command line's start; `train` from the command to its first step | speed_start.py |
| features | what channels_last, compile, fused optimisers and the like are worth on this machine | speed_features.py |

Prints a table and writes tests/benchmarks/results/speed.json and speed.md, a group at a time: other groups' figures
stay. Absolute figures belong to the machine that the files name; the ratios travel. A floor is the ratio, measured in
the same rounds, of what no way to the same result can do without (speed_input.py: decoder and resize alone).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that are started

import torch
from harness import Figure
from rich.console import Console
from rich.table import Table
from speed_audit import audit
from speed_data import index, loaders, measures
from speed_engine import checkpoint, engine
from speed_features import features
from speed_input import inputs
from speed_models import forward, training
from speed_start import start_up

RESULTS = Path(__file__).parent / "results"
GROUPS: dict[str, Callable[[int], Iterable[Figure]]] = {
    "forward": forward,
    "training": training,
    "engine": engine,
    "checkpoint": checkpoint,
    "loaders": loaders,
    "input": inputs,
    "measures": measures,
    "index": index,
    "audit": audit,
    "start-up": start_up,
    "features": features,
}
COLUMNS = ("case", "ours", "baseline", "ratio (quartiles)", "floor", "target", "holds")


def cells(figure: dict[str, Any]) -> list[str]:
    """A figure's row of the table."""
    unit, ratio, target = figure["unit"], figure["ratio"], figure["target"]
    spread = " ({:.3f} - {:.3f})".format(*figure["quartiles"]) if figure["quartiles"] else ""
    return [
        figure["case"],
        f"{figure['value']:.4g} {unit}",
        "" if figure["baseline"] is None else f"{figure['baseline']:.4g} {unit}",
        "" if ratio is None else f"{ratio:.3f}{spread}",
        f"{figure['floor']:.3f}" if figure.get("floor") else "",
        "" if target is None else f"{figure['direction']} {target:g}",
        {None: "", True: "yes", False: "NO"}[figure["holds"]],
    ]


def show(name: str, figures: list[dict[str, Any]]) -> None:
    table = Table(title=name, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "case" else "right")
    for figure in figures:
        table.add_row(*cells(figure))
    Console(width=150).print(table)


def write(groups: dict[str, dict[str, Any]]) -> None:
    """Put the groups beside those of earlier runs."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "speed.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    known |= groups
    known = {name: known[name] for name in GROUPS if name in known}
    path.write_text(json.dumps(known, indent=1) + "\n")
    lines = ["# Speed", "", "Written by `make bench`; medians of interleaved rounds, CPU time of one thread.", ""]
    for name, group in known.items():
        lines += [f"## {name}", "", f"{group['rounds']} rounds, {group['machine']}, {group['when']}", ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
        lines += ["| " + " | ".join(cells(figure)) + " |" for figure in group["figures"]]
        lines.append("")
    (RESULTS / "speed.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=GROUPS, action="append", help="a group; may be given several times")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds after one that warms up")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = f"{processor()}, {os.cpu_count()} cores (1 used), torch {torch.__version__}"
    for name in arguments.only or GROUPS:
        figures = [figure.to_dict() for figure in GROUPS[name](arguments.rounds)]
        show(name, figures)
        when = time.strftime("%Y-%m-%d")
        write({name: {"machine": machine, "rounds": arguments.rounds, "when": when, "figures": figures}})


def processor() -> str:
    """The processor's name where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
