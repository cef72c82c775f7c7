"""`attnbias audit`: its files, its exit codes, its options, and sets on which some of it cannot be measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import attnbias as library
from attnbias.methods.engine.audit import audit as engine
from attnbias.methods.engine.errors import Interrupted
from attnbias.methods.engine.load import weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.text import read_csv
from attnbias.weights.files import write_weights
from tests.cli.test_run_options import observed
from tests.helpers.browser import Browser
from tests.helpers.command_line import Result, attnbias
from tests.helpers.forked import ForkedRun
from tests.helpers.small_model import write_model
from tests.helpers.tiny_runs import contents, instead

FILES = {"audit.json", "classes.csv", "samples.csv"}
HOSTILE = ("=1+1", "</script>", "a|b`c", "{{title}}")


@pytest.fixture
def model(here: Path) -> Path:
    """An untrained model on images of the demo set."""
    return write_model(here / "model.safetensors", image_size=32)


@pytest.fixture
def audit(model: Path, demo_root: Path) -> Callable[..., Result]:
    """Audit it on eight images."""

    def run(*more: Any, expect: int = 0) -> Result:
        quick = ("--limit", 8, "--faithfulness", 2, "--data-root", demo_root, "--gpus", 0)
        return attnbias("audit", model, "demo", *instead(quick, *more), expect=expect)

    return run


def result(folder: str = "audit") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "audit.json").read_text())
    return found


def own_photos(folder: Path, classes: tuple[str, ...], each: int = 3, seed: int = 0) -> Path:
    """A folder of noise for each class."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def single_label(path: Path, classes: tuple[str, ...], **weights: float) -> Path:
    """An untrained single-label model; `bias` of its first class."""
    method = get_method("csra")
    recipe = override(method.named_recipe("demo-single").recipe, {"image_size": 32})
    torch.manual_seed(0)
    built = method.build_model(recipe, len(classes), "singlelabel")
    write_weights(path, built.state_dict(), weights_metadata(method, recipe, classes, "singlelabel"))
    return path


# What is written ------------------------------------------------------------------------------------------------------


def test_an_audit_writes_what_python_returns_and_says_trust_and_answer_first(
    audit: Callable[..., Result], model: Path, demo_root: Path
) -> None:
    said = audit("--out", "seen").out
    written = result("seen")
    assert {path.name for path in Path("seen").iterdir()} >= FILES
    assert (written["schema"], written["version"]) == ("attnbias-audit", 1)
    trust, answer = said.index(written["trust"]["text"]), said.index(written["answer"][0]["text"])
    assert trust < answer < said.index("check")
    known = {"data_root": demo_root, "limit": 8, "faithfulness": 2}
    found = library.audit(library.load(model, device="cpu", data_root=demo_root), "demo", limit=8, faithfulness=2)
    again = json.loads(found.to_json())
    differs = [name for name in written if again[name] != written[name]]
    assert set(differs) <= {"about"}  # its date
    assert {n for n in written["about"] if again["about"][n] != written["about"][n]} <= {"date", "command", "source"}
    assert library.audit(model, "demo", device="cpu", **known).figures == found.figures
    header, *rows = read_csv(Path("seen/samples.csv"))
    assert len(rows) == len(found.samples)
    assert header[:7] == ["image", "path", "class", "right", "predicted", "score", "group"]


def test_a_folder_is_replaced_only_where_that_is_typed_and_only_what_an_audit_wrote(
    audit: Callable[..., Result],
) -> None:
    audit()
    before, figures = contents(Path("audit")), result()["figures"]
    assert "add --overwrite" in audit(expect=2).line
    assert contents(Path("audit")) == before
    Path("audit/mine.txt").write_text("kept")
    audit("--overwrite", "--tau", 0.2)
    assert result()["figures"] != figures
    assert Path("audit/mine.txt").read_text() == "kept"


@pytest.mark.parametrize("error", [Interrupted(signal.SIGTERM), RuntimeError("broken")])
def test_an_audit_that_ends_in_its_middle_leaves_nothing(
    audit: Callable[..., Result], here: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = {path.name for path in here.iterdir()}

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(engine, "checks", fails)
    audit(expect=143 if isinstance(error, Interrupted) else 1)
    assert {path.name for path in here.iterdir()} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_audit_that_is_killed_leaves_no_folder_and_the_next_try_writes_it(
    here: Path, model: Path, demo_root: Path, number: signal.Signals
) -> None:
    typed = ["audit", model, "demo", "--data-root", demo_root, "--out", here / "audit", "--gpus", 0]
    run = ForkedRun([*typed, "--limit", 24, "--faithfulness", 8], here / "log")
    assert run.wait_until(lambda: any(here.glob(".audit.*.part")))
    time.sleep(0.5)  # the model is loaded, or measured
    os.kill(run.processes[0].pid or 0, number)
    assert run.wait() == [-number if number == signal.SIGKILL else 128 + number]
    assert not (here / "audit").exists()
    if number != signal.SIGKILL:
        assert "stopped" in (here / "log").read_text().splitlines()[-1]
    attnbias(*typed, "--limit", 2, "--faithfulness", 1, expect=0)
    assert {path.name for path in (here / "audit").iterdir()} >= FILES
    assert not any(here.glob(".audit.*.part"))


def test_an_audit_under_a_launcher_of_several_processes_is_refused_in_one_line(here: Path, demo_root: Path) -> None:
    typed = ["audit", "model.safetensors", "demo", "--data-root", demo_root, "--out", here / "audit"]
    run = ForkedRun(typed, here / "log", 2)
    assert run.wait() == [2, 2]
    (line,) = (here / "log").read_text().splitlines()
    assert "this command runs in one process, and a launcher started 2; start it by itself" in line
    assert not (here / "audit").exists()


# Conditions -----------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_images_that_audit_json_names_and_worst_holds_their_maps(
    browser: Browser, audit: Callable[..., Result]
) -> None:
    audit()
    findings = {finding["name"]: finding["examples"] for finding in result()["pictures"]}
    shown = [
        Path(example["path"]).stem for name, examples in findings.items() if name != "random" for example in examples
    ]
    files = [path.name for path in Path("audit/worst").iterdir()]
    assert len(files) == len(shown) > 0
    assert all(any(stem in file for file in files) for stem in shown)
    with Image.open(Path("audit/worst", files[0])) as overlay:
        assert min(overlay.size) >= 224  # small images are enlarged
    browser.open(Path("audit/report.html"))
    captions = browser.run("return [...document.querySelectorAll('#pictures figcaption')].map(c => c.innerText)")
    named = [example["path"] for examples in findings.values() for example in examples]
    assert [caption.split("\n")[-1] for caption in captions] == named
    painted = """const example = document.querySelector('#pictures .example'); example.paint();
        const heat = example.querySelector('.heat');
        return heat.getContext('2d').getImageData(0, 0, heat.width, heat.height).data.some((value) => value > 0);"""
    assert browser.run(painted)
    assert browser.complaints() == []


def test_conditions_decide_the_exit_code_and_are_written_for_machines(audit: Callable[..., Result]) -> None:
    typed = ("energy<0", "energy<2", "worst_group_accuracy<0.5")
    flags = [word for each in typed for word in ("--fail-if", each)]
    assert audit(*flags[:2], "--out", "one").code == 0
    said = audit(*flags, "--out", "all", "--junit", "audit.xml", "--markdown", "audit.md", expect=4)
    states = {check["name"]: check["state"] for check in result("all")["checks"] if check["threshold_of"] == "yours"}
    assert states == {"energy<0": "holds", "energy<2": "fails", "worst_group_accuracy<0.5": "not run"}
    assert "energy is at least 2" in said.out
    suite = ElementTree.parse("audit.xml").getroot()
    assert [suite.get(name) for name in ("tests", "failures", "errors")] == ["3", "1", "1"]
    assert [[part.tag for part in case] for case in suite] == [["system-out"], ["failure"], ["error"]]
    assert "| energy is at least 2 | fails |" in Path("audit.md").read_text().replace("\\", "")
    assert "add --overwrite" in audit("--markdown", "audit.md", "--out", "third", expect=2).line
    undecided = next(figure for figure in result("all")["figures"] if figure["name"] == "accuracy")
    audit("--fail-if", f"accuracy>{undecided['value']}", "--out", "fourth", expect=0)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("--fail-if", "position_bias>0.2"), "did you mean 'position_biased'?"),
        (("--fail-if", "energy=2"), "expected FIGURE>NUMBER"),
        (("--junit", "a.xml"), "changes nothing without --fail-if"),
        (("--map", "gradcams"), "did you mean 'gradcam'?"),
        (("--layer", "features"), "--layer is of plain classifiers"),
        (("--split", "vall"), "no split 'vall'"),
        (("--limit", "0"), "--limit"),
        (("--markdown", "audit"), "audit is a folder; name a file"),
        (("--markdown", "new", "--out", "new/audit"), "new is a folder; name a file"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    audit: Callable[..., Result], here: Path, typed: tuple[str, ...], words: str
) -> None:
    before = contents(here)
    result = attnbias("audit", *("model.safetensors", "demo", "--data-root", str(here)))
    assert result.code == 3
    refused = audit(*typed, expect=3 if "--split" in typed else 2)
    assert words in refused.line
    assert contents(here) == before


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", ["boxes", "masks"])
def test_figures_are_those_of_val_against_the_truth_that_was_typed(model: Path, demo_root: Path, truth: str) -> None:
    common = ("--split", "counter", "--truth", truth, "--data-root", demo_root, "--gpus", 0)
    attnbias("audit", model, "demo", *common, "--faithfulness", 1, expect=0)
    probes = ("--bias", "--reliance", "--backgrounds", "--json", "val.json")
    attnbias("val", "csra", "--load-from", model, "--dataset", "demo", *common, *probes, expect=0)
    (found,) = json.loads(Path("val.json").read_text())
    expected = found["reliance"]["means"] | found["backgrounds"]["means"] | found["bias"]["means"]
    shared = {each["name"]: each["value"] for each in result()["figures"] if each["name"] in expected}
    assert {"position_biased", "energy", "context_share", "bg_gap"} <= shared.keys()
    assert shared == {name: pytest.approx(expected[name], abs=1e-6) for name in shared}


def test_the_map_its_layer_and_its_truth_are_those_that_were_typed(here: Path, demo_root: Path) -> None:
    plain = write_model(here / "plain.safetensors", "plain", image_size=32)
    quick = ("--limit", 4, "--faithfulness", 1, "--data-root", demo_root, "--device", "cpu")
    attnbias("audit", plain, "demo", *quick, "--split", "counter", "--truth", "boxes", "--out", "found", expect=0)
    found = result("found")["about"]
    assert (found["map"], found["truth"], found["split"]) == ("gradcam", "boxes", "counter")
    assert "found" in found["layer_reason"]
    chosen = ("--map", "layercam", "--layer", "network.features.0")
    other = attnbias("audit", plain, "demo", *quick, *chosen, "--out", "typed")
    if other.code:  # the name is another: the message lists those that there are
        name = other.line.rsplit(" ", 1)[-1]
        attnbias("audit", plain, "demo", *quick, "--map", "layercam", "--layer", name, "--out", "typed", expect=0)
    told = result("typed")["about"]
    assert (told["map"], told["split"], told["truth"]) == ("layercam", "val", "masks")
    assert told["layer_reason"] == "it was typed (--layer)"
    assert (found["images"], found["images_of_split"]) == (4, 24)
    assert "drawn by chance" in found["drawn"]


def test_whose_weights_and_which_are_read_as_typed(audit: Callable[..., Result], demo_root: Path) -> None:
    assert "is a checkpoint of 'csra', not of 'lsas'" in audit("--method", "lsas", expect=3).line
    named = attnbias("audit", "lsas:model.safetensors", "demo", "--data-root", demo_root, expect=3)
    assert "is a checkpoint of 'csra', not of 'lsas'" in named.line
    assert "changes nothing" in audit("--recipe", "demo", expect=2).line
    assert "ema" in audit("--weights", "ema", expect=3).line
    audit("--method", "csra", "--lam", 0)
    command = result()["about"]["command"]
    assert "demo --method csra " in command
    assert command.endswith(" --lam 0.0")


def test_unreadable_images_are_left_out_where_that_is_typed(here: Path) -> None:
    own_photos(here / "photos", ("cat", "dog"))
    weights = single_label(here / "own.safetensors", ("cat", "dog"))
    attnbias("prepare-data", "photos", expect=0)
    (here / "photos" / "cat" / "1.png").write_bytes(b"broken")
    assert "1.png" in attnbias("audit", weights, "photos", "--gpus", 0, expect=3).err
    attnbias("audit", weights, "photos", "--gpus", 0, "--on-bad-image", "skip", expect=0)
    about = result()["about"]
    assert (about["images"], len(about["unreadable"])) == (5, 1)


def test_the_machine_and_the_batch_are_as_typed(audit: Callable[..., Result]) -> None:
    with observed() as seen:
        audit("--device", "cpu", "--eval-batch-size", 3)
    assert seen.evaluation[:3] == [3, 3, 2]
    assert result()["about"]["versions"]["device"] == "cpu"
    assert "--device nothing" in audit("--device", "nothing", "--out", "other", expect=2).line


def test_before_and_after_are_paired_on_the_same_objects(here: Path, audit: Callable[..., Result]) -> None:
    other = write_model(here / "other.safetensors", seed=1, image_size=32)
    audit("--against", other)
    own, against = result(), result()["against"]
    figures = {figure["name"]: figure for figure in own["figures"]}
    for row in against["rows"]:
        assert row["after"]["value"] == pytest.approx(figures[row["name"]]["value"])
        assert row["difference"] == pytest.approx(row["after"]["value"] - row["before"]["value"], abs=1e-9)
        assert row["before"]["n"] == row["after"]["n"]
    assert own["answer"][0]["text"] == against["text"]
    assert against["about"]["weights_sha256"] != own["about"]["weights_sha256"]
    audit("--against", "model.safetensors", "--out", "itself")
    assert {row["difference"] for row in result("itself")["against"]["rows"]} == {0}
    assert "no difference can be told in objects looked wholly past" in result("itself")["against"]["text"]


def test_own_maps_of_two_methods_are_not_compared_and_one_explainer_s_are(
    here: Path, audit: Callable[..., Result]
) -> None:
    other = write_model(here / "other.safetensors", "ida", image_size=32)
    audit("--against", other)
    against = result()["against"]
    names = {row["name"] for row in against["rows"]}
    assert {"mean_average_precision", "context_share"} <= names
    assert not {"energy", "position_biased", "deletion"} & names
    assert not {"to-object", "to-elsewhere"} & {finding["name"] for finding in against["pictures"]}
    assert "score of csra" in against["text"]
    assert "--map gradcam is one for both" in against["text"]
    audit("--against", other, "--map", "gradcam", "--out", "explained")
    assert {"energy", "position_biased"} <= {row["name"] for row in result("explained")["against"]["rows"]}


# Sets on which some of it cannot be measured --------------------------------------------------------------------------


def test_photos_of_ones_own_are_prepared_and_what_needs_no_objects_is_measured(here: Path) -> None:
    own_photos(here / "photos", (*HOSTILE[:1], "cat"))
    weights = single_label(here / "own.safetensors", (*HOSTILE[:1], "cat"))
    said = attnbias("audit", weights, "photos", "--gpus", 0, "--faithfulness", 2, expect=0)
    assert "prepared 'photos'" in said.err
    found = result()
    states = {check["name"]: check for check in found["checks"]}
    for name in ("position_biased", "energy", "context_share", "bg_gap"):
        assert states[name]["state"] == "not run"
        assert "neither masks nor boxes" in states[name]["reason"]
    assert (found["about"]["truth"], found["quadrants"], found["scores"]) == (None, [], [])
    assert "cannot be held against objects" in found["answer"][0]["text"]
    assert "--masks estimate takes those of a segmenter" in found["answer"][0]["text"]
    again = attnbias("audit", weights, "photos", "--gpus", 0, "--faithfulness", 2, "--overwrite", expect=0)
    assert "as it was prepared from" in again.err


@pytest.mark.parametrize("classes", [HOSTILE, ("only",)])
def test_hostile_names_and_a_single_class_are_audited(here: Path, classes: tuple[str, ...]) -> None:
    for name in classes:
        folder = here / "photos" / name.replace("/", "_")
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40), (len(name) * 9 % 255, 90, 30)).save(folder / "a.png")
    names = tuple(sorted(name.replace("/", "_") for name in classes))
    weights = single_label(here / "own.safetensors", names)
    typed = ("--gpus", 0, "--markdown", "found.md", "--fail-if", "accuracy<2", "--junit", "found.xml")
    attnbias("audit", weights, "photos", *typed, expect=4)
    _header, *rows = read_csv(Path("audit/classes.csv"))
    assert tuple(row[0] for row in rows) == names
    assert {row[2] for row in read_csv(Path("audit/samples.csv"))} == {"class", *names}
    assert ElementTree.parse("found.xml").getroot().tag == "testsuite"


def test_a_single_image_decides_nothing(audit: Callable[..., Result]) -> None:
    audit("--limit", 1, "--fail-if", "energy<2")
    states = {check["name"]: check["state"] for check in result()["checks"]}
    assert states["energy<2"] == states["position_biased"] == "undecided"
    edges = {figure["name"]: figure["interval_95"] for figure in result()["figures"]}
    assert edges["energy"] is edges["area_matched"] is None
    assert edges["position_biased"] in ([0, 1], None)  # of a share of a single image anything may be so


def test_masks_beside_photos_are_the_objects_and_one_of_another_size_is_named(here: Path) -> None:
    own_photos(here / "photos" / "images", ("cat", "dog"), each=4)
    for photo in sorted((here / "photos" / "images").rglob("*.png")):
        mask = here / "photos" / "masks" / photo.relative_to(here / "photos" / "images")
        mask.parent.mkdir(parents=True, exist_ok=True)
        plane = np.zeros((40, 40), np.uint8)
        plane[10:25, 5:20] = 255
        Image.fromarray(plane).save(mask)
    weights = single_label(here / "own.safetensors", ("cat", "dog"))
    quick = ("--gpus", 0, "--faithfulness", 1)
    attnbias("audit", weights, "photos", *quick, expect=0)
    found = result()
    assert (found["about"]["truth"], found["about"]["measured_objects"]) == ("masks", 8)
    assert sum(cell["count"] for cell in found["quadrants"]) == 8
    shares = {row[8] for row in list(read_csv(Path("audit/samples.csv")))[1:]}
    assert len(shares) == 1  # each has an object of one size
    Image.new("L", (20, 30)).save(here / "photos" / "masks" / "cat" / "0.png")
    shutil.rmtree(here / "datasets")
    refused = attnbias("audit", weights, "photos", *quick, "--overwrite", expect=3)
    assert "0.png" in refused.err.splitlines()[-1]
    assert result() == found
