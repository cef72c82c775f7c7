"""Help in two levels: what most people set on two screens, all of it where that is asked; no value beside a flag."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from attnbias.cli.app import WORK, program
from attnbias.methods import METHODS
from attnbias.methods.engine.recipe import TRAINING, TRAINING_DATA, fields_of, panel_of
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.requests import ExportRequest, Request, ValRequest, VisualizeRequest
from tests.helpers.command_line import attnbias

SCREENS = 100
"""Lines of two screens."""


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """What a terminal of 100 columns shows."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str) -> list[str]:
        program().main(list(words), prog_name="attnbias", standalone_mode=False)
        return capsys.readouterr().out.splitlines()

    return run


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("command", ["train", "val", "visualize", "export"])
def test_help_is_two_screens_and_help_all_shows_every_option(
    command: str, method: str, shown: Callable[..., list[str]]
) -> None:
    lines, every = shown(command, method, "--help"), shown(command, method, "--help-all")
    assert shown(command, method, "--help") == lines  # what all options were shown of hides them again
    assert len(lines) <= SCREENS
    assert max(map(len, lines)) <= 100
    assert "<bool>" not in "\n".join(every)
    known = get_description(method).recipe_type
    fields = fields_of(known, training=command == "train")
    text, all_text = (" ".join(page) + " " for page in (lines, every))
    for name, info in fields.items():
        if command == "train" or panel_of(info) != TRAINING_DATA:
            assert f" {flag(name)} " in all_text
    for name in ("dataset", "image_size"):
        assert f" {flag(name)} " in text
    assert " --device " in all_text
    assert " --device " not in text
    begin = lines.index(next(line for line in lines if line.strip() == "Examples:"))
    examples = [line.strip() for line in lines[begin + 1 :] if line.strip()]
    assert len(examples) == 3
    for example in examples:
        words = shlex.split(example)
        assert words[:3] == ["attnbias", command, method]
        assert all(f" {word} " in f"{all_text} " for word in words if word.startswith("--"))


def test_nothing_is_cut_off_where_lines_are_short(
    shown: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown("train", "ida", "--help-all")
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    (command,) = [line for line in lines if " --channels-last " in line]
    assert " --no-channels-last " in lines[lines.index(command) + 1]
    for name in ("--shutdown-timeout", "--grad-checkpointing", "--data-root,--root", "--token-layout"):
        assert any(f" {name} " in line for line in lines)
    page = shown("prepare-data", "--help")
    begin = next(number for number, line in enumerate(page) if "Running it again" in line)
    paragraph = page[begin : page.index(next(line for line in page[begin:] if not line.strip()))]
    assert all(len(line.rstrip()) > 60 for line in paragraph[:-1])


@pytest.mark.parametrize(
    ("command", "kind"), [("val", ValRequest), ("visualize", VisualizeRequest), ("export", ExportRequest)]
)
def test_what_only_training_reads_is_listed_for_training_alone(
    command: str, kind: type[Request], shown: Callable[..., list[str]]
) -> None:
    """A command may have an option of the same name, as `val` its own --decode."""
    for method in METHODS:
        text = " ".join(shown(command, method, "--help-all")) + " "
        for name, info in get_description(method).recipe_type.model_fields.items():
            if panel_of(info) in (TRAINING, TRAINING_DATA) and name not in kind.model_fields:
                assert f" {flag(name)} " not in text, (method, name)


def test_commands_are_listed_in_the_order_of_work(shown: Callable[..., list[str]]) -> None:
    lines = shown("--help")
    words = [line.strip("│ ").split(" ")[0] for line in lines]
    assert [word for word in words if word in WORK] == list(WORK)
    assert "<bool>" not in "\n".join(lines)
    assert [line.strip() for line in lines if line.strip().startswith("attnbias ")] == [
        "attnbias prepare-data demo",
        "attnbias train csra --dataset demo",
        "attnbias list recipes",
    ]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("train csra --pretraind", "--pretrained"),
        ("train csra --chanels-last", "--channels-last"),
        ("train csra --epoch 3", "--epochs"),
        ("train csra --set demo", "--dataset"),
        ("train csra --size 64", "--image-size"),
        ("val csra --load-form x", "--load-from"),
        ("train csra --weight-deca 1", "--weight-decay"),
    ],
)
def test_a_misspelt_flag_is_offered_right_also_where_only_help_all_shows_it(words: str, near: str) -> None:
    assert f"did you mean '{near}'?" in attnbias(*words.split(), expect=2).line
