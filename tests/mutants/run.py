"""How well the tests hold the wiring: put small faults in, one at a time, and see whether tests notice them.

`python tests/mutants/run.py` (make mutants) tries every fault of faults.py in a copy of this checkout and prints a
table and a score; `--only WORD` those whose name or file holds the word. A fault is noticed where its tests fail or
hang. A fault whose text is no longer found is an error: it moved, and the list must follow.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faults import FAULTS, Fault
from rich.console import Console
from rich.table import Table

CHECKOUT = Path(__file__).resolve().parents[2]
ROOMS = ("cli", "data", "methods", "weights")
LIMIT = 180.0
"""Seconds after which a fault counts as noticed: its tests hang."""


@dataclass(frozen=True)
class Copy:
    """A copy of the checkout whose package goes before the installed one."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Copy:
        """Copy what git tracks, and link the rooms below one package, as mypy reads them."""
        tracked = subprocess.run(
            ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True, text=True
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

    def passes(self, tests: Sequence[str]) -> bool:
        """Whether these tests pass in the copy.

        Raises:
            RuntimeError: pytest could not run them, such as one that does not exist.
        """
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder / "build" / "package"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{' '.join(tests)}: pytest ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.returncode == 0

    def notices(self, fault: Fault) -> bool:
        """Whether the fault's tests fail once it is put in; the file is mended afterwards."""
        file = self.folder / fault.file
        sound = file.read_text()
        if sound.count(fault.before) != 1:
            raise RuntimeError(f"{fault.name}: {fault.file} holds its text {sound.count(fault.before)} times, not once")
        file.write_text(sound.replace(fault.before, fault.after))
        try:
            return not self.passes(fault.tests)
        finally:
            file.write_text(sound)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="faults whose name or file holds this word")
    parser.add_argument("--list", action="store_true", help="print the faults; check that each is found; run nothing")
    arguments = parser.parse_args()
    chosen = [fault for fault in FAULTS if arguments.only in fault.name or arguments.only in fault.file]
    console = Console()
    table = Table("fault", "file", "noticed", title=f"{len(chosen)} faults")
    noticed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy.make(Path(folder))
        if not arguments.list:
            tests = sorted({test for fault in chosen for test in fault.tests})
            if not copy.passes(tests):
                console.print("the tests fail without any fault; mend that first")
                return 1
        for fault in chosen:
            if arguments.list:
                found = (copy.folder / fault.file).read_text().count(fault.before)
                table.add_row(fault.name, fault.file, "-" if found == 1 else f"its text is there {found} times")
                continue
            seen = copy.notices(fault)
            noticed += seen
            console.print(f"{'noticed' if seen else 'NOT NOTICED'}: {fault.name}")
            table.add_row(fault.name, fault.file, "yes" if seen else "NO")
    console.print(table)
    if not arguments.list:
        console.print(f"{noticed} of {len(chosen)} faults noticed ({noticed / max(len(chosen), 1):.0%})")
    return 0 if arguments.list or noticed >= 0.9 * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
