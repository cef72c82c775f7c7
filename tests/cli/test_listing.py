"""What `attnbias list` shows: datasets readable at 80 columns, and everything that is known with --verbose."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnbias import __version__ as attnbias_version
from attnbias.cli.listing import listing
from attnbias.data.registry import DATASETS
from attnbias.methods import METHODS
from attnbias.methods.engine.recipe import FRESH
from attnbias.methods.engine.registry import get_description, get_method
from attnbias.methods.engine.screen import Table
from attnbias.weights.manifest import PUBLISHED
from tests.helpers.command_line import attnbias

REPO = Path(__file__).parents[2]


def shown(*arguments: str | Path) -> list[str]:
    done = CliRunner().invoke(listing, ["datasets", *map(str, arguments)], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_a_line_a_dataset_at_80_columns(demo_root: Path) -> None:
    lines = shown("--root", demo_root)
    assert max(map(len, lines)) <= 80
    rows = {words[0]: words for line in lines[1:] if (words := line.split())}
    for info in DATASETS.values():
        row = " ".join(rows[info.name])
        assert info.title in row
        assert info.size in row
        assert rows[info.name][-1] == ("yes" if info.acquisition == "generated" else "no")


@pytest.mark.parametrize("name", DATASETS)
def test_terms_page_and_command_when_asked(name: str, tmp_path: Path) -> None:
    info, lines = DATASETS[name], shown("--verbose", "--root", tmp_path)
    start = lines.index(f"{name}  {info.title}")
    block = " ".join(" ".join(lines[start : lines.index("", start)]).split())
    for part in (info.licence, info.page, f"attnbias prepare-data {name}{info.arguments}"):
        assert part in block
    assert all(archive.file in block for archive in info.archives)


@pytest.mark.parametrize("asked", [["weights"], ["recipes", "csra", "-v"], ["datasets"]])
def test_names_that_are_to_be_typed_are_not_broken_at_80_columns(asked: list[str]) -> None:
    done = CliRunner().invoke(listing, asked, env={"COLUMNS": "80"})
    names = {
        "weights": list(PUBLISHED),
        "recipes": list(get_description("csra").recipes),
        "datasets": list(DATASETS),
    }[asked[0]]
    words = set(done.output.split())
    assert [name for name in names if name not in words] == []
    table = done.output.partition("kept in")[0]
    assert "-v" in asked or max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("asked", [["weights"], ["recipes"], ["datasets"], ["methods"]])
def test_no_word_is_broken_at_80_columns(asked: list[str]) -> None:
    narrow, wide = (CliRunner().invoke(listing, asked, env={"COLUMNS": str(columns)}).output for columns in (80, 500))
    assert set(narrow.split()) == set(wide.split())


def test_names_that_are_too_long_are_broken_before_the_words_beside_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table("measure", title="a title that is longer than the forty letters of the table below it")
    for run in ("a-run-with-a-very-long-name", "another-run-with-a-long-name"):
        table.column(run, justify="right")
    table.row("accuracy", "97.25", "97.5 (+0.25)*")
    table.show()
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.endswith("below it")
    assert max(map(len, lines)) <= 40
    assert {"measure", "accuracy", "97.25", "(+0.25)*"} <= set(" ".join(lines).split())


def test_which_datasets_are_ready_and_more_of_each(demo_root: Path, tmp_path: Path) -> None:
    for root, state in ((demo_root, "yes"), (tmp_path, "no")):
        rows = attnbias("list", "datasets", "--data-root", root, expect=0).out.splitlines()
        (row,) = (row for row in rows if row.split()[:1] == ["demo"])
        assert row.split()[-1] == state
    licence = DATASETS["coco"].licence
    assert licence not in attnbias("list", "datasets", expect=0).out
    assert licence in attnbias("list", "datasets", "--verbose", expect=0).out


def test_recipes_of_one_method_with_their_sources() -> None:
    everything = attnbias("list", "recipes", expect=0).out
    ours = attnbias("list", "recipes", "csra", expect=0).out
    recipes = get_method("csra").recipes
    assert all(name in ours and name in everything for name in recipes)
    assert "lsas" in everything
    assert "lsas" not in ours
    source = recipes["coco-resnet101"].source
    assert source not in ours
    assert source in attnbias("list", "recipes", "csra", "--verbose", expect=0).out


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_is_shown_with_all_facts_and_the_papers_figures(method: str) -> None:
    description = get_description(method)
    for name, named in description.recipes.items():
        out = " ".join(attnbias("show", method, name, expect=0).out.split())
        facts = [description.title, named.source, named.note, named.recipe.dataset, f"--recipe {name}"]
        facts += [f"{measure} {value}" for measure, value in named.paper.items()]
        facts += [
            *type(named.recipe).model_fields,
            named.recipe.init if named.recipe.init != FRESH else "fresh weights",
        ]
        for fact in facts:
            assert " ".join(fact.split()) in out, (name, fact)


def test_a_recipe_is_found_by_what_names_it(tmp_path: Path) -> None:
    shown = attnbias("show", "csra", "coco-resnet101", expect=0).out
    assert attnbias("show", "csra/coco-resnet101", expect=0).out == shown
    assert attnbias("show", "coco-resnet101", expect=0).out == shown
    assert attnbias("show", "csra", expect=0).out == shown  # what it trains by
    assert (
        "several methods have a recipe 'demo'; say which: absvit/demo or csra/demo or ida"
        in attnbias("show", "demo", expect=2).line
    )
    assert "did you mean 'coco-resnet101'" in attnbias("show", "coco-resnet11", expect=2).line
    assert "has no recipe 'demoo'" in attnbias("show", "csra", "demoo", expect=2).line
    assert "expected METHOD RECIPE" in attnbias("show", "csra", "demo", "more", expect=2).line


@pytest.mark.parametrize("method", METHODS)
def test_a_paper_is_cited_with_its_program_as_bibtex(method: str) -> None:
    printed = attnbias("cite", method, expect=0).out
    paper = get_description(method).paper
    entries = re.findall(r"^@(\w+)\{([^,]+),\n((?:  \w+ += \{.*\},\n)+)\}$", printed, re.MULTILINE)
    assert [(kind, key) for kind, key, _ in entries] == [
        ("inproceedings", paper.key),
        ("misc", f"{paper.key}-program"),
        ("software", "attnbias"),
    ]
    assert printed.count("{") == printed.count("}")
    for fact in (" and ".join(paper.authors), paper.title, str(paper.year), paper.page, paper.program):
        assert fact in printed


def test_a_paper_of_any_conference_is_cited() -> None:
    paper = replace(get_description("csra").paper, conference="WACV")
    assert re.search(r"booktitle += \{WACV\},", paper.bibtex())


def test_a_misspelt_method_is_offered_its_nearest_name() -> None:
    assert "did you mean 'csra'" in attnbias("cite", "crsa", expect=2).err


def test_the_citation_file_names_this_version() -> None:
    lines = (REPO / "CITATION.cff").read_text().splitlines()
    assert f"version: {attnbias_version}" in lines
