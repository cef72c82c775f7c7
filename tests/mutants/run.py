"""How well the tests hold the wiring: put small faults in, one at a time, and see whether tests notice them.

`python tests/mutants/run.py` (make mutants) tries every fault of faults/ in copies of this checkout and prints a table
and a score; `--only WORD` those whose name or file holds the word. `--check` runs no test: it fails where a fault no
longer applies, since its text moved or its test is missing. Whoever moves code moves its faults.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from fault import Fault
from faults import FAULTS
from rich.console import Console
from rich.table import Table

CHECKOUT = Path(__file__).resolve().parents[2]
ROOMS = ("cli", "data", "methods", "weights")
LIMIT = 120.0
"""Seconds that the tests of one fault may take, on a machine with nothing else to do."""
ENOUGH = 0.9
"""The share of faults that must be noticed."""


class Verdict(Enum):
    """What became of a fault."""

    NOTICED = "noticed"
    MISSED = "NOT NOTICED"
    TIMED_OUT = "TIMED OUT"


@dataclass(frozen=True)
class Outcome:
    """A fault, what became of it, and the seconds that its tests took."""

    fault: Fault
    verdict: Verdict
    seconds: float

    @property
    def noticed(self) -> bool:
        return self.verdict is Verdict.NOTICED or (self.verdict is Verdict.TIMED_OUT and self.fault.hangs)


@dataclass(frozen=True)
class Copy:
    """A copy of the checkout whose package goes before the installed one."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Copy:
        """Copy what git tracks, and link the rooms below one package, as mypy reads them."""
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=CHECKOUT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for name in filter(None, tracked.split("\0")):
            if (CHECKOUT / name).is_file():  # a file that was removed and not yet committed is still tracked
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, folder / name)
        package = folder / "build" / "package" / "attnbias"
        package.mkdir(parents=True)
        for part in [*(folder / "src" / "attnbias").iterdir(), *(folder / room for room in ROOMS)]:
            (package / part.name).symlink_to(part)
        return cls(folder)

    def run(self, tests: Sequence[str], limit: float | None) -> Verdict:
        """Run tests in the copy: a fault is noticed where one fails.

        Raises:
            RuntimeError: pytest could not run them.
        """
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        package = str(self.folder / "build" / "package")
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            written, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # what the tests started, too
            process.communicate()
            return Verdict.TIMED_OUT
        if process.returncode not in (0, 1):
            raise RuntimeError(f"{' '.join(tests)}: pytest ended with {process.returncode}\n{written}")
        return Verdict.NOTICED if process.returncode else Verdict.MISSED

    def try_out(self, fault: Fault, limit: float) -> Outcome:
        """Put a fault in and run its tests; the file is mended afterwards."""
        begin = time.monotonic()
        sound = fault.put_in(self.folder)
        try:
            verdict = self.run(fault.tests, limit)
        finally:
            (self.folder / fault.file).write_text(sound)
        return Outcome(fault, verdict, time.monotonic() - begin)


def outcomes(faults: Sequence[Fault], copies: Sequence[Copy], limit: float) -> Iterator[Outcome]:
    """Try faults, as many at once as there are copies; in the order of the list."""
    free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    @contextmanager
    def borrowed() -> Iterator[Copy]:
        copy = free.get()
        try:
            yield copy
        finally:
            free.put(copy)

    def try_out(fault: Fault) -> Outcome:
        with borrowed() as copy:
            return copy.try_out(fault, limit)

    with ThreadPoolExecutor(len(copies)) as workers:
        yield from workers.map(try_out, faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="faults whose name or file holds this word")
    parser.add_argument("--check", action="store_true", help="only check that every fault applies; run no test")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="faults tried at once (default: cores)")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds for the tests of a fault ({LIMIT:.0f})")
    arguments = parser.parse_args()
    chosen = [fault for fault in FAULTS if arguments.only in fault.name or arguments.only in fault.file]
    console = Console()
    problems = [f"{fault.name}: {problem}" for fault in chosen for problem in fault.problems(CHECKOUT)]
    if problems:
        console.print(*problems, sep="\n", markup=False, highlight=False, soft_wrap=True)
        console.print("These faults no longer apply: follow what moved in tests/mutants/faults/", soft_wrap=True)
        return 1
    if arguments.check or not chosen:
        console.print(f"each of {len(chosen)} faults applies")
        return 0
    table = Table("fault", "file", "verdict", "seconds", title=f"{len(chosen)} faults")
    noticed = 0
    with tempfile.TemporaryDirectory() as folder:
        copies = [Copy.make(Path(folder, str(job))) for job in range(arguments.jobs)]
        if copies[0].run(sorted({test for fault in chosen for test in fault.tests}), limit=None) is not Verdict.MISSED:
            console.print("the tests fail without any fault; mend that first")
            return 1
        for found in outcomes(chosen, copies, arguments.limit):
            noticed += found.noticed
            console.print(f"{found.verdict.value}: {found.fault.name} ({found.seconds:.0f} s)", highlight=False)
            table.add_row(found.fault.name, found.fault.file, found.verdict.value, f"{found.seconds:.0f}")
    console.print(table)
    console.print(f"{noticed} of {len(chosen)} faults noticed ({noticed / len(chosen):.0%})")
    return 0 if noticed >= ENOUGH * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
