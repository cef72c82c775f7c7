"""What a fault is: a text that becomes another, and the tests that should notice it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Fault(NamedTuple):
    """One fault: `before`, which stands once in `file`, becomes `after`."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    """As few as notice it, as pytest names them."""
    hangs: bool = False
    """Whether it makes things hang: only then is it noticed by tests that do not end."""

    def put_in(self, checkout: Path) -> str:
        """Write the fault into its file.

        Returns:
            The file's text of before.
        """
        file = checkout / self.file
        sound = file.read_text()
        file.write_text(sound.replace(self.before, self.after))
        return sound

    def problems(self, checkout: Path) -> Iterator[str]:
        """Why it does not apply to this checkout: its text is elsewhere, or a test is missing."""
        file = checkout / self.file
        if not file.is_file():
            yield f"{self.file} is missing"
        elif (count := file.read_text().count(self.before)) != 1:
            yield f"{self.file} holds its text {count} times, not once: {self.before.strip()!r}"
        for test in self.tests:
            if not exists(test, checkout):
                yield f"the test {test} is missing"


def exists(test: str, checkout: Path) -> bool:
    """Whether a test's file, and its function where one is named, are there; parameters are not looked at."""
    name, _, function = test.partition("::")
    file = checkout / name
    if not file.is_file() or not function:
        return file.is_file()
    return any(
        isinstance(node, ast.FunctionDef) and node.name == function.partition("[")[0]
        for node in ast.parse(file.read_text()).body
    )
