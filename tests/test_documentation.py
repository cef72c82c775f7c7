"""What the READMEs say is so: their commands parse, their links lead somewhere, their recipes' fields are all there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from typer.main import get_command

from attnbias.cli.app import app
from attnbias.cli.errors import TypedWrong
from attnbias.methods.engine.errors import UsageError
from tests.helpers import recipe_fields

REPO = Path(__file__).parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "cli/**/*.md", "data/**/*.md", "methods/**/*.md", "weights/**/*.md", "tests/**/*.md")
    for path in REPO.glob(pattern)
)


def commands(page: Path) -> Iterator[str]:
    """Every `attnbias ...` line of the page's blocks, launchers before it and comments behind it cut off."""
    for block in re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in re.findall(r"^.*\battnbias\b.*$", block.replace("\\\n", " "), re.MULTILINE):
            words = shlex.split(line, comments=True)
            for start, word in enumerate(words):
                if word == "attnbias" and (start == 0 or words[start - 1] in ("-m", "&&") or words[0] == "srun"):
                    yield shlex.join(words[start + 1 :])


def alternatives(words: list[str]) -> Iterator[list[str]]:
    """A line for each of `fetch|inspect|convert`."""
    for position, word in enumerate(words):
        if re.fullmatch(r"[a-z]+(\|[a-z]+)+", word):
            for choice in word.split("|"):
                yield from alternatives([*words[:position], choice, *words[position + 1 :]])
            return
    yield words


def parse(words: list[str]) -> None:
    """Parse a command line as the program does, down to the command's own parameters, and run nothing."""
    command: Any = get_command(app)
    context = click.Context(command)
    while hasattr(command, "resolve_command"):
        while words and words[0].startswith("-"):
            words = words[1:]
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, parent=context, info_name=name)
    command.parse_args(context, list(words))


@pytest.mark.parametrize(
    ("page", "line"), [(str(page.relative_to(REPO)), line) for page in PAGES for line in commands(page)]
)
def test_a_command_of_the_documentation_is_one_of_the_program(page: str, line: str) -> None:
    for words in alternatives(shlex.split(line)):
        parse(words)


@pytest.mark.parametrize("line", ["train csra --nope 1", "val csra", "list recips", "val csra --load-from x --lam abc"])
def test_a_line_that_is_no_command_would_be_noticed(line: str) -> None:
    with pytest.raises((TypedWrong, UsageError, click.UsageError)):
        parse(line.split())


def test_every_recipe_field_is_documented_as_the_recipe_has_it() -> None:
    """`python -m tests.helpers.recipe_fields` writes the page again."""
    assert recipe_fields.PAGE.read_text(encoding="utf-8") == recipe_fields.page()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_of_the_documentation_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"https?://|mailto:", target):
            assert (page.parent / target).exists(), f"{page.relative_to(REPO)}: {target}"
