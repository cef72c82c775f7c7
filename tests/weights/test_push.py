"""`attnbias weights push`: a run becomes a repository of the hub, which loads by its name; tried against a stand-in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load
from torchvision.models import resnet18

from attnbias.methods.engine.inspection import describe
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.publish import measured
from attnbias.weights.files import Entry
from tests.helpers.command_line import attnbias
from tests.helpers.hub_server import HubServer, hub

TARGET = "hf://me/csra-demo"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub, as this process's client knows it by now."""
    with hub() as server:
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": True,
        }
        for name, value in settings.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setenv("ATTNBIAS_CACHE", str(tmp_path / "cache"))
        yield server


@pytest.fixture(scope="module")
def run(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with averaged weights, measured by its log and by `val --store`."""
    out = tmp_path_factory.mktemp("runs") / "run"
    size = ["--image-size", 32, "--batch-size", 24, "--epochs", 1, "--ema-decay", 0.9]
    cpu = ["--gpus", 0, "--threads", 1, "--data-root", demo_root]
    attnbias("train", "csra", "--recipe", "demo", *size, *cpu, "--out", out, expect=0)
    attnbias("val", "csra", "--load-from", out, "--split", "counter", "--store", *cpu, expect=0)
    return out


def test_a_run_is_pushed_with_all_it_needs_and_loads_back_by_its_name(
    server: HubServer, run: Path, demo_root: Path
) -> None:
    done = attnbias("weights", "push", run, TARGET, "--private", expect=0)
    assert f"{TARGET}: model.safetensors, recipe.yaml, preprocessing.json, README.md" in done.out
    assert server.private == {"me/csra-demo": True}
    files = server.repositories["me/csra-demo"]
    kept = load_run("csra", str(run), {})
    state = load(files["model.safetensors"])
    assert all(torch.equal(state[name], value) for name, value in kept.model.state_dict().items())
    assert yaml.safe_load(files["recipe.yaml"])["image_size"] == 32
    images = json.loads(files["preprocessing.json"])
    assert (images["image_size"], images["mean"]) == (32, [0, 0, 0])

    card = files["README.md"].decode()
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front)["tags"] == ["attnbias", "csra"]
    rows = {line.split("|")[1].strip(): line for line in body.splitlines() if line.startswith("| demo/")}
    weights = "averaged" if "averaged" in kept.source else "raw"
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    (logged,) = (n for n in lines if n.get("weights") == {"averaged": "ema", "raw": "raw"}[weights])
    assert f"{logged['mAP']:.4g}" in rows["demo/val"]
    stored = json.loads((run / "evaluations" / "demo" / "counter" / "evaluation.json").read_text())
    assert f"{stored['measures']['mAP']:.4g}" in rows["demo/counter"]
    assert f"attnbias val csra --load-from {TARGET}" in body
    assert str(run) not in card

    back = attnbias(
        "val", "csra", "--load-from", TARGET, "--data-root", demo_root, "--gpus", 0, "--json", "-", expect=0
    )
    assert f'"mAP": {logged["mAP"]}' in back.out


@pytest.mark.parametrize(("entry", "kind"), [("model", "raw"), ("ema", "ema")])
def test_a_card_has_the_figures_of_the_weights_that_are_pushed(entry: Entry, kind: str, run: Path) -> None:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    (logged,) = (line for line in lines if line.get("weights") == kind)
    assert measured(describe("csra", str(run), {}, entry=entry), "")["demo/val"]["mAP"] == logged["mAP"]


def test_a_repository_that_is_there_is_only_added_to_where_that_is_typed(server: HubServer, run: Path) -> None:
    server.repositories["me/csra-demo"] = {"notes.txt": b"mine"}
    refused = attnbias("weights", "push", run, TARGET, expect=2)
    assert "is there already; --overwrite adds these weights to it" in refused.line
    assert server.repositories == {"me/csra-demo": {"notes.txt": b"mine"}}
    done = attnbias("weights", "push", run, TARGET, "--overwrite", "--weights", "raw", expect=0)
    assert "raw weights" in done.out
    assert {"notes.txt", "model.safetensors"} <= server.repositories["me/csra-demo"].keys()


def test_who_may_not_write_is_told_so_in_one_line(
    server: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert attnbias("weights", "push", run, TARGET, expect=1).line.endswith("; sign in: hf auth login, or $HF_TOKEN")
    assert not server.repositories


def test_what_cannot_be_pushed_is_refused_before_anything_is_asked(run: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"w")
    assert "expected hf://" in attnbias("weights", "push", run, "me/csra-demo", expect=2).line
    assert "expected hf://" in attnbias("weights", "push", run, "hf://me/csra/demo", expect=2).line
    assert "cannot be written --offline" in attnbias("--offline", "weights", "push", run, TARGET, expect=2).line
    assert "weights convert" in attnbias("weights", "push", tmp_path / "w.pth", TARGET, expect=3).line


def test_no_path_of_this_machine_is_published(server: HubServer, demo_root: Path, tmp_path: Path) -> None:
    """Neither of the dataset nor of the weights that it started from, in any file; the name of the set is."""
    shutil.copytree(demo_root / "demo", tmp_path / "mine")
    torch.save(resnet18().state_dict(), tmp_path / "start.pth")
    run, cpu = tmp_path / "run", ["--gpus", 0, "--threads", 1]
    train = ["train", "csra", "--recipe", "demo", "--dataset", tmp_path / "mine", "--backbone", "resnet18"]
    train += ["--backbone-weights", tmp_path / "start.pth", "--image-size", 32, "--batch-size", 24, "--steps", 1]
    attnbias(*train, *cpu, "--out", run, expect=0)
    assert str(tmp_path) in (run / "recipe.yaml").read_text()
    attnbias("weights", "push", run, TARGET, expect=0)
    files = server.repositories["me/csra-demo"]
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
    recipe = yaml.safe_load(files["recipe.yaml"])
    assert (recipe["dataset"], recipe["init"]) == ("mine", "own")
    assert "trained on `mine`" in files["README.md"].decode()
