"""What the READMEs say is so: their commands parse, their links lead somewhere, their recipes' fields are all there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import attnbias
from attnbias.cli.app import program
from attnbias.cli.errors import TypedWrong
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.resolve import resolve_recipe
from tests.helpers import recipe_fields

REPO = Path(__file__).parent.parent
README = (REPO / "README.md").read_text()
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
PAGES = sorted(
    path
    for pattern in ("*.md", "cli/**/*.md", "data/**/*.md", "methods/**/*.md", "weights/**/*.md", "tests/**/*.md")
    for path in REPO.glob(pattern)
)


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The blocks of a page that are in one of these languages; "" = as none says, which is a shell's."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        if language in languages:
            yield block


def shell_lines(page: Path) -> Iterator[str]:
    """The lines of a page's blocks for a shell, without comments, and what stands in its text as a line of one."""
    for block in blocks(page, "", "bash", "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield shlex.join(words)
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"`((?:make|pip|python) [^`]+)`", text):
        yield " ".join(line.split())


def commands(page: Path) -> Iterator[str]:
    """Every `attnbias ...` line of the page's blocks, launchers before it cut off."""
    for line in shell_lines(page):
        words = shlex.split(line)
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
    command: Any = program()
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


@pytest.mark.parametrize(
    ("page", "line"),
    sorted({(str(page.relative_to(REPO)), line) for page in PAGES for line in shell_lines(page)}),
)
def test_every_other_line_for_a_shell_names_what_there_is(page: str, line: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    for part in line.split(" '&&' "):
        program, *words = shlex.split(re.sub(r" \[(--.*)\]", r" \1", part))
        if program == "make":
            assert {*words} <= {*targets}
        elif program == "pip":
            assert words[0] == "install"
            extras = re.findall(r"^(?:\.|attnbias)\[([\w,-]+)\]$", "\n".join(words), re.MULTILINE)
            assert {*",".join(extras).split(",")} - {""} <= {*PROJECT["optional-dependencies"]}
        elif program == "python":
            file = REPO / (words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0])
            options = [word for word in words if word.startswith("--")]
            assert all(f'"{option}"' in file.read_text() for option in options)
        else:  # what a launcher starts is in `commands`, as is what nothing starts
            assert program in ("attnbias", "torchrun", "srun", "accelerate")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_commands_in_the_text_and_their_options_are_the_programs(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"`attnbias ([^`]+)`", text):
        words = shlex.split(re.sub(r"METHOD|<name>|\.\.\.(?= )", "csra", line.replace("\n", " ")))
        command: Any = program()
        context = click.Context(command)
        while hasattr(command, "resolve_command") and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
            name, command, words = command.resolve_command(context, words)
            context = click.Context(command, parent=context, info_name=name)
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= {*known, "--help"}, line


def test_every_recipe_field_is_documented_as_the_recipe_has_it() -> None:
    """`python -m tests.helpers.recipe_fields` writes the page again."""
    assert recipe_fields.PAGE.read_text(encoding="utf-8") == recipe_fields.page()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_of_the_documentation_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"https?://|mailto:", target):
            assert (page.parent / target).exists(), f"{page.relative_to(REPO)}: {target}"


def test_the_readme_is_short_and_in_a_newcomers_order() -> None:
    assert re.findall(r"^## (.+)$", README, re.MULTILINE) == [
        "Install",
        "Two commands",
        "Your own images",
        "Python in five lines",
        "Methods",
        "Use",
        "Results",
        "Where the numbers come from",
        "Citing and licence",
    ]
    assert len([word for word in README.split() if re.search(r"\w", word)]) <= 1250  # about 1,200
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert pictures == ["methods/csra/where-it-looks.jpg", "methods/csra/learning-curves.png"]
    assert (REPO / pictures[1]).stat().st_size < 60_000
    assert README.index("![") < README.index("## Install")
    rows = re.findall(r"^\|.*\|$", re.sub(r"\]\([^)]*\)", "]", README), re.MULTILINE)
    assert max(map(len, rows)) <= 100, "a table is no wider than a screen"


def test_the_readme_says_what_each_extra_brings_and_shows_each_command_once() -> None:
    named = re.findall(r"^\| `([\w-]+)` \|", README, re.MULTILINE)
    work_on_it = {"dev", "oracles", "real-network"}
    assert {*named} | work_on_it == {*PROJECT["optional-dependencies"]}
    use = README[README.index("## Use") : README.index("## Results")]
    command: Any = program()
    assert sorted(re.findall(r"^attnbias ([\w-]+)", use, re.MULTILINE)) == sorted(command.commands)


def test_the_metadata_names_each_papers_page_and_the_citation_this_version() -> None:
    papers = {f"Paper of {name}": get_description(name).paper.page for name in ("csra", "ida", "lsas", "llb", "absvit")}
    assert PROJECT["urls"] == papers
    assert yaml.safe_load((REPO / "CITATION.cff").read_text())["version"] == attnbias.__version__


def test_the_readme_looks_at_the_run_that_its_line_before_trains() -> None:
    lines = [line.split() for line in commands(REPO / "README.md")]
    train, look = (next(line for line in lines if line[0] == command) for command in ("train", "visualize"))
    typed = dict(zip(train[2::2], train[3::2], strict=True))
    name = resolve_recipe(get_description(train[1]), typed["--recipe"], {"dataset": typed["--dataset"]}).name
    assert look[look.index("--load-from") + 1] == f"runs/{train[1]}/{name}"


@pytest.mark.slow
def test_the_benchmarks_of_make_bench_start() -> None:
    asked = [sys.executable, REPO / "tests" / "benchmarks" / "speed.py", "--help"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert "--only {forward," in shown
