"""The command line's start: help and lists without torch, and `train` from the command to its first step."""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import Figure

from attnbias.data.prepare import prepare
from attnbias.data.sets.contract import PrepareOptions

IMPORTS = "import torch, timm, accelerate"


def start_up(rounds: int) -> Iterator[Figure]:
    """User CPU of short commands; all CPU of a first training step against importing what it stands on."""
    for arguments in (["--help"], ["list", "recipes"], ["train", "csra", "--help"]):
        command = [sys.executable, "-m", "attnbias", *arguments]
        spent = [children_cpu(command)[0] for _ in range(rounds + 1)][1:]
        yield Figure(f"attnbias {' '.join(arguments)}: user CPU", statistics.median(spent), "s", target=0.6)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare("demo", None, root, PrepareOptions(settings={"train": 100, "eval": 10}))
        imports, train = [], []
        for _ in range(rounds + 1):
            imports.append(sum(children_cpu([sys.executable, "-c", IMPORTS])))
            train.append(cpu_to_first_step(root))
        ratios = [ours / base for ours, base in zip(train[1:], imports[1:], strict=True)]
        first, _, last = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
        yield Figure(
            "attnbias train csra, to its first step / importing torch, timm and accelerate: CPU",
            statistics.median(train[1:]),
            "s",
            baseline=statistics.median(imports[1:]),
            ratio=statistics.median(ratios),
            quartiles=(first, last),
            target=1.25,
        )


def children_cpu(command: list[str]) -> tuple[float, float]:
    """User and system CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


def cpu_to_first_step(root: Path) -> float:
    """CPU seconds that `attnbias train` has used when it reports its first step."""
    command = [sys.executable, "-m", "attnbias", "train", "csra", "--recipe", "demo", "--gpus", "0", "--threads", "1"]
    command += ["--log-every", "1", "--overwrite", "--data-root", str(root), "--out", str(root / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if re.match(r"epoch +1/", line):
                break
        else:
            raise RuntimeError(f"no step was reported by: {' '.join(command)}")
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        process.kill()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
