"""Each method's README says of every option and command of the paper's program what it is here, or why it is left out.

`program_options/METHOD.txt` lists them, one a line: facts of the programs, noted when they were studied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from attnbias.cli.app import program
from attnbias.methods import METHODS
from attnbias.methods.engine.registry import get_description

LISTS = sorted((Path(__file__).parent / "program_options").glob("*.txt"))
REPO = Path(__file__).parents[2]
HEADING = "## The programs?'s? options"
IN_WORDS = ("README: ", "notebook: ")
LEFT_OUT = "left out, because "


def page_of(method: str) -> Path:
    return REPO / "methods" / method.replace("-", "/", 1).replace("-", "_") / "README.md"


def rows_of(method: str) -> Iterator[tuple[list[str], str]]:
    """What the left side of each row names, and its right side."""
    section = re.split(r"^## ", re.split(HEADING, page_of(method).read_text(), maxsplit=1)[1], maxsplit=1, flags=re.M)[
        0
    ]
    for line in section.splitlines():
        if line.startswith("|") and not re.match(r"\|[ |:-]+\|$|\| (of |key )", line):
            left, right = line.strip("| ").split(" | ", 1)
            yield ([left] if left.startswith(IN_WORDS) else re.findall(r"`([^`]+)`", left)), right


@cache
def options_of(method: str) -> frozenset[str]:
    """The options of all commands, with those of this method's own."""
    description = get_description(method)
    found = {f"--{name.replace('_', '-')}" for name in description.recipe_type.model_fields}
    found |= {f"--no-{name[2:]}" for name in found} | {"--task"}

    def add(command: Any, context: click.Context) -> None:
        found.update(option for each in command.params for option in (*each.opts, *each.secondary_opts))
        for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
            if name not in METHODS or name == method.split("-")[0]:
                inner = command.get_command(context, name)
                add(inner, click.Context(inner, parent=context, info_name=name))

    command = program()
    add(command, click.Context(command))
    return frozenset(found)


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_every_option_of_a_papers_program_is_told(file: Path) -> None:
    listed = file.read_text().splitlines()
    told = [name for names, _ in rows_of(file.stem) for name in names]
    assert sorted(told) == sorted(set(listed))


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_what_an_option_is_here_is_one_of_ours_or_is_left_out_for_a_reason(file: Path) -> None:
    recipes = get_description(file.stem).recipes
    for names, right in rows_of(file.stem):
        ours = re.findall(r"`([^`]*)`", right)
        assert ours or right.startswith(LEFT_OUT), names
        words = [word for text in ours for word in text.split()]
        assert {word for word in words if word.startswith("--")} <= options_of(file.stem), names
        named = {name for text in ours for name in re.findall(r"--recipe (\S+)", text)}
        assert named <= {*recipes}, names


def test_each_paper_has_its_list() -> None:
    assert {file.stem for file in LISTS} == {
        *(name for name in METHODS if name != "plain"),
        "absvit-segmentation",
        "absvit-vision-language",
    }
