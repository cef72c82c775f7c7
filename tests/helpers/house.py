"""Figures of the product's code: `python -m tests.helpers.house` prints them, the architecture test holds them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).parents[2]
ROOMS = ("cli", "data", "methods", "weights", "src")
LONG = 50
"""Lines, from `def` to the end."""


def trees() -> Iterator[tuple[str, int, ast.Module]]:
    """Each file of the product: its path, its lines, its syntax."""
    for room in ROOMS:
        for path in sorted((REPO / room).rglob("*.py")):
            text = path.read_text()
            yield path.relative_to(REPO).as_posix(), text.count("\n"), ast.parse(text)


def long_functions() -> list[tuple[str, str, int]]:
    """Functions of more than LONG lines: file, name, lines."""
    found = []
    for path, _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                found.append((path, node.name, node.end_lineno - node.lineno + 1))
    return [each for each in found if each[2] > LONG]


def uses_of(name: str) -> int:
    """How often a name of `typing` is used, beside its imports."""
    return sum(isinstance(node, ast.Name) and node.id == name for _, _, tree in trees() for node in ast.walk(tree))


if __name__ == "__main__":
    for path, name, lines in long_functions():
        print(f"{path}: {name} has {lines} lines")
    print(f"Any: {uses_of('Any')}, cast: {uses_of('cast')}, lines: {sum(lines for _, lines, _ in trees())}")
