"""What can be told to be wrong without weights is refused before weights are asked for and before anything is made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from attnbias.cli.app import program
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import write_model
from tests.helpers.tiny_runs import contents

MISSING = "missing.safetensors"
COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("val", "csra"): ("--load-from", MISSING),
    ("val", "absvit"): ("--load-from", MISSING),
    ("visualize", "csra"): ("--load-from", MISSING),
    ("visualize", "absvit"): ("--load-from", MISSING, "photos"),
    ("visualize", "absvit-vision-language"): ("--load-from", MISSING, "photos"),
    ("export", "csra"): ("--load-from", MISSING, "--check"),
    ("export", "absvit"): ("--load-from", MISSING, "--check"),
    ("predict",): ("--load-from", MISSING, "photos"),
    ("audit",): (MISSING, "photos"),
    ("priors",): (MISSING,),
    ("compare",): (MISSING,),
    ("weights", "inspect"): (MISSING,),
    ("weights", "convert"): (MISSING, "--to", "new.safetensors"),
}
"""Every command that reads weights, beside a model that is missing."""

WRONG = {
    "--map": ("gradcams", "gradcam"),
    "--head": ("-1", "--head"),
    "--prior": ("away.npz", "prior"),
    "--gain": ("-1", "--gain"),
    "--class-map": ("away.csv", "away.csv does not exist"),
    "--weights-file": ("away.pth", "--weights-file"),
    "--recipe": ("nonsense", "no recipe 'nonsense'|a recipe 'nonsense'"),
    "--method": ("crsa", "unknown method 'crsa'"),
    "--device": ("quantum", "--device quantum"),
    "--gpus": ("99", "--gpus"),
    "--threads": ("0", "--threads"),
    "--workers": ("-1", "--workers"),
    "--eval-batch-size": ("0", "--eval-batch-size"),
    "--limit": ("0", "--limit"),
    "--top-k": ("0", "--top-k"),
    "--threshold": ("2", "--threshold"),
    "--tau": ("2", "--tau"),
    "--faithfulness": ("0", "--faithfulness"),
    "--find-groups": ("1", "--find-groups"),
    "--attack": ("fgms", "fgms"),
    "--corrupt": ("fogg", "fogg"),
    "--severity": ("9", "--severity"),
    "--fail-if": ("energy=2", "expected FIGURE>NUMBER"),
    "--truth": ("guess", "--truth"),
    "--weights": ("best", "--weights"),
    "--split": ("vall", "no split 'vall'"),
    "--context": ("trian", "no split 'trian'"),
    "--last-layer": ("trian", "no split 'trian'"),
    "--dataset": ("cocoo", "unknown dataset 'cocoo'"),
    "--image-size": ("-1", "image_size"),
    "--backbone": ("resnet5", "unknown backbone 'resnet5'"),
    "--question": ("why?", "asked by class"),
}
"""A wrong value of each option that can be told to be one, and words of the line that refuses it (| = or)."""

UNKNOWN = {
    "audit": {"--split"},  # of images that are not prepared yet
    "predict": {"--question"},  # the weights say whether they are asked in words
    "priors": {"--split"},  # of the weights' own dataset
    "export": {"--limit"},
    "compare": {"--split", "--limit"},  # of a page that is not asked for
    "absvit-vision-language": {"--question"},
}
"""What a command cannot know without weights, or what is not wrong there."""

MORE = {
    "val": {
        **dict.fromkeys(("--map", "--prior", "--gain", "--tau", "--truth"), ("--bias",)),
        **dict.fromkeys(("--split", "--context", "--last-layer"), ("--dataset", "demo")),
        "--severity": ("--corrupt", "fog"),
        "--weights-file": ("--load-from", "my:network"),
    },
    "visualize": {"--split": ("--dataset", "demo"), "--weights-file": ("--load-from", "my:network")},
}
"""Options that others need beside them."""


def wrong_values() -> Iterator[tuple[tuple[str, ...], str]]:
    """Each command with each of its options that `WRONG` names, as the command's own signature has them."""
    for command in COMMANDS:
        found: Any = program()
        for word in command:
            context = found.make_context(word, [], resilient_parsing=True)
            found = found.get_command(context, word)
        known = {flag for option in found.params for flag in option.opts} & WRONG.keys()
        known -= {flag for word in command for flag in UNKNOWN.get(word, ())}
        yield from ((command, flag) for flag in sorted(known))


@pytest.fixture
def desk(here: Path, demo_root: Path) -> Path:
    """A folder with images of one's own and a prepared set, and no model."""
    for name in ("cat", "dog"):
        (here / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(here / "photos" / name / "1.png")
    (here / "datasets").symlink_to(demo_root)
    return here


def test_one_wrong_value_is_refused_beside_a_model_that_is_missing(desk: Path) -> None:
    before, tried, wrong = contents(desk), 0, []
    for command, flag in wrong_values():
        value, words = WRONG[flag]
        of_a_set = flag in ("--split", "--dataset", "--class-map")
        base = [word for word in COMMANDS[command] if not (of_a_set and command[0] == "visualize" and word == "photos")]
        result = attnbias(*command, *base, *MORE.get(command[0], {}).get(flag, ()), flag, value)
        tried += 1
        said = result.err.splitlines()
        if result.code not in (2, 3) or not said or not any(each in said[-1] for each in words.split("|")):
            wrong.append(" ".join([*command, flag, "->", str(result.code), *said[-1:]]))
    assert not wrong, "\n".join(wrong)
    assert tried > 120
    assert contents(desk) == before


@pytest.mark.parametrize(
    ("model", "data", "more"),
    [
        (MISSING, "photos", ()),
        ("model.safetensors", "photos", ("--against", MISSING)),
        ("model.safetensors", "photos", ("--layer", "features")),
        ("model.safetensors", "photos", ("--map", "shown")),
        ("model.safetensors", "away", ()),
        ("model.safetensors", "", ()),  # which would be the working folder
    ],
)
def test_an_audit_prepares_no_images_for_what_cannot_be(
    model: str, data: str, more: tuple[str, ...], desk: Path
) -> None:
    write_model(desk / "model.safetensors", image_size=32)
    before = contents(desk)
    result = attnbias("audit", model, data, *more)
    assert result.code in (2, 3)
    assert "prepared" not in result.line.replace("is not prepared", "")
    assert contents(desk) == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("predict", "--load-from", "model.safetensors", ""), "a word of the command is empty"),
        (("prepare-data", ""), "a word of the command is empty"),
        (("predict", "--load-from", "model.safetensors", "photos", "--json", ""), "--json is empty"),
        (("compare", "run", "--report="), "--report is empty"),
        (("list", "datasets", "--root", ""), "--root is empty"),
        (("train", "csra", "--seeds=0,1", "-o", ""), "-o is empty"),
    ],
)
def test_an_empty_word_is_no_path(words: tuple[str, ...], named: str, desk: Path) -> None:
    """It would be the working folder: where a variable of the shell is not set, all that lies there."""
    before = contents(desk)
    assert named in attnbias(*words, expect=2).line
    assert contents(desk) == before


def test_what_is_neither_a_folder_nor_a_file_is_not_prepared(here: Path) -> None:
    os.mkfifo(here / "pipe.csv")
    (here / "endless.json").symlink_to("/dev/zero")
    for name in ("pipe.csv", "endless.json"):
        assert "is neither a folder nor a regular file" in attnbias("prepare-data", name, expect=2).line


@pytest.mark.parametrize("command", [("predict", "photos", "--load-from", MISSING), ("audit", MISSING, "photos")])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--backbone", "resnet5"), "unknown backbone 'resnet5' (did you mean 'resnet50'?)"),
        (("--lam", "3", "--backbone", "resnet5"), "unknown backbone 'resnet5'"),
        (("--image-size", "-1"), "'image_size' = -1"),
        (("--lam", "3", "--image-size", "x"), "invalid value for '--image-size'"),
        (("--lam", "3", "--beta", "1"), "no such option"),  # of two methods
    ],
)
def test_what_no_method_takes_is_refused_before_weights_are_asked_whose_they_are(
    command: tuple[str, ...], flags: tuple[str, ...], words: str, desk: Path
) -> None:
    assert words in attnbias(*command, *flags, expect=2).line


@pytest.mark.parametrize(
    "command",
    [
        ("val", "csra", "--load-from"),
        ("visualize", "csra", "--load-from"),
        ("priors",),
    ],
)
def test_a_split_that_the_weights_dataset_has_not_is_refused_before_weights_are_read(
    command: tuple[str, ...], desk: Path
) -> None:
    weights = write_model(desk / "model.safetensors", "csra", image_size=32)
    header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    with weights.open("r+b") as file:
        file.truncate(header)  # what the file says of itself is all that is left
    line = attnbias(*command, weights, "--split", "vall", expect=3).line
    assert "dataset 'demo' has no split 'vall'; it has: train, val" in line


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--backbone", "resnet5"), 2, "unknown backbone 'resnet5'"),
        (("--load-from", MISSING), 3, f"no checkpoint {MISSING}"),
        (("--backbone-weights", MISSING), 3, f"no checkpoint {MISSING}"),
        (("--resume", "away"), 3, "away is not a complete checkpoint folder"),
        (("--accumulation", "1000"), 2, "cannot be cut into"),
        (("--grad-checkpointing",), 2, "--grad-checkpointing is for transformers"),
        (("--ema-epoch", "1"), 2, "--ema-epoch 1 changes nothing"),
        (("--out", "photos"), 2, "photos is not empty"),
    ],
)
@pytest.mark.parametrize("dataset", ["imagenet", "cocoo"])
def test_wrong_options_of_training_come_before_data_that_are_missing(
    options: tuple[str, ...], code: int, words: str, dataset: str, desk: Path
) -> None:
    before = contents(desk)
    typed = ("train", "csra", "--recipe", "demo", "--gpus", 0, "--dataset", dataset)
    assert words in attnbias(*typed, *options, expect=code).line
    assert "photos" in options or words in attnbias(*typed, *options, "--dry-run", expect=code).line
    assert contents(desk) == before
