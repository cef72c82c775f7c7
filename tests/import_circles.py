"""Circles of imports: `python tests/import_circles.py [REPO]` says how many there are, and what is in each.

In every folder, from the top of the repository down, the files and folders that stand side by side are looked at: which
of them import each other. That finds circles of files and of folders alike, and leaves a folder free to hold both what
its sub-folders stand on and what stands on them. Every import counts: at the head of a file, inside a function, and for
types alone.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOMS = ("cli", "data", "methods", "weights")


def modules_of(repo: Path) -> dict[str, Path]:
    """Module below `attnbias` -> its file; that of a package is PACKAGE.__init__, and stands beside what is in it."""
    paths = sorted(path for room in ROOMS for path in (repo / room).rglob("*.py"))
    return {".".join(path.relative_to(repo).with_suffix("").parts): path for path in paths}


@cache
def imports(path: Path) -> list[str]:
    """The modules that a file imports, and what it imports from them, as MODULE.NAME."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return found


def imported(path: Path, modules: Mapping[str, Path]) -> set[str]:
    """The modules of ours that a file imports."""
    found = set()
    for name in imports(path):
        name = name.removeprefix("attnbias.")
        module = name.rpartition(".")[0]  # of what is not a module itself
        keys = (name, f"{name}.__init__", module, f"{module}.__init__")
        found.add(next((key for key in keys if key in modules), None))
    return {module for module in found if module}


def circles(repo: Path) -> list[tuple[str, list[str]]]:
    """Every circle: the folder, and the files and folders in it that import each other."""
    modules = modules_of(repo)
    edges = {(module, target) for module, path in modules.items() for target in imported(path, modules)}
    parents = {module.rpartition(".")[0] for module in modules}
    folders = {".".join(parent.split(".")[:depth]) for parent in parents for depth in range(parent.count(".") + 2)}
    found = []
    for folder in sorted(folders):
        reached = _reached(edges, f"{folder}." if folder else "")
        groups = {frozenset(two for two in reached[one] if one in reached.get(two, ())) for one in reached}
        found += [(folder or ".", sorted(group)) for group in groups if group]
    return found


def _reached(edges: set[tuple[str, str]], inside: str) -> dict[str, set[str]]:
    """What stands side by side in a folder -> all of it that its imports lead to."""
    reached: dict[str, set[str]] = {}
    for edge in edges:
        if all(module.startswith(inside) for module in edge):
            one, two = (module.removeprefix(inside).split(".")[0] for module in edge)
            if one != two:
                reached.setdefault(one, set()).add(two)
    for middle in reached:
        for targets in reached.values():
            if middle in targets:
                targets |= reached[middle]
    return reached


if __name__ == "__main__":
    all_circles = circles(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print(f"{len(all_circles)} circles")
    for folder, circle in all_circles:
        print(f"  in {folder}: {', '.join(circle)}")
