"""Figures of the product's code: `python -m tests.helpers.house` prints them, the architecture test holds them."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPO = Path(__file__).parents[2]
ROOMS = ("cli", "data", "methods", "weights", "src")
LONG = 50
"""Lines of a function, from `def` to the end."""


@dataclass(frozen=True)
class File:
    """What is read of a file of the product, once."""

    path: str
    lines: int
    functions: Sequence[tuple[str, int]]
    """Name, and lines from `def` to the end."""
    names: Counter[str]
    """How often each plain name is used."""
    calls: frozenset[str]
    """What is called, as it is written: `json.load`."""


@cache
def files() -> list[File]:
    """Each file of the product."""
    return [_read(path) for room in ROOMS for path in sorted((REPO / room).rglob("*.py"))]


def _read(path: Path) -> File:
    text = path.read_text()
    functions, names, calls = [], Counter[str](), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            functions.append((node.name, node.end_lineno - node.lineno + 1))
        elif isinstance(node, ast.Name):
            names[node.id] += 1
        elif isinstance(node, ast.Call):
            calls.add(ast.unparse(node.func))
    return File(path.relative_to(REPO).as_posix(), text.count("\n"), functions, names, frozenset(calls))


def long_functions() -> list[tuple[str, str, int]]:
    """Functions of more than LONG lines: file, name, lines."""
    return [(file.path, name, lines) for file in files() for name, lines in file.functions if lines > LONG]


def uses_of(name: str) -> int:
    """How often a name of `typing` is used, beside its imports."""
    return sum(file.names[name] for file in files())


if __name__ == "__main__":
    for path, name, lines in long_functions():
        print(f"{path}: {name} has {lines} lines")
    print(f"Any: {uses_of('Any')}, cast: {uses_of('cast')}, lines: {sum(file.lines for file in files())}")
