"""`attnbias explore`: what is typed reaches the page, and Ctrl-C ends it."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from attnbias.methods.engine.explore.explore import Exploration
from tests.cli.test_run_options import observed
from tests.helpers.command_line import Result, attnbias
from tests.helpers.explored import content, send
from tests.helpers.forked import ForkedRun
from tests.helpers.small_model import DIGITS, write_model

BUILD = """
from torch import nn

def build():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return network, {"image_size": 16}, ["a", "b"]
"""


class Foreign(Namespace):
    """What only a trusted checkpoint may hold."""


@dataclass
class Pages:
    """The command, stopped once a test has looked at its page."""

    told: dict[str, Any] = field(default_factory=dict)
    """What the last page said."""
    scores: list[float] = field(default_factory=list)
    """What its first model said of the first image, where there was one."""
    url: str = ""

    def serve(self, *arguments: Any, expect: int = 0) -> Result:
        """Run the command until the page has been asked."""
        self.told, self.scores, self.url = {}, [], ""
        return attnbias("explore", *arguments, expect=expect)

    def look(self, page: Exploration) -> None:
        self.url, self.told = page.url, content(page.url)
        if self.told["images"]:
            image = send(page.url, "/begin", {"number": 0})["key"]
            asked = {"model": 0, "map": next(iter(self.told["models"][0]["maps"])), "image": image}
            self.scores = send(page.url, "/look", asked)["scores"]


@pytest.fixture
def pages(here: Path, monkeypatch: pytest.MonkeyPatch) -> Pages:
    write_model(here / "model.safetensors", backbone="resnet18", image_size=32)
    Image.new("RGB", (40, 30), "teal").save("photo.png")
    found = Pages()
    monkeypatch.setattr(Exploration, "wait", lambda page: found.look(page))
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_models_and_images_stand_on_the_page_as_they_were_typed(pages: Pages) -> None:
    write_model(Path("other.safetensors"), seed=1)
    port = free_port()
    said = pages.serve("model.safetensors", "photo.png", "--beside", "other.safetensors", "--port", port, "--gpus", 0)
    assert said.out == f"open http://127.0.0.1:{port}/ in a browser; Ctrl-C ends it\n"
    assert pages.url == f"http://127.0.0.1:{port}/"
    assert [model["name"] for model in pages.told["models"]] == ["model", "other"]
    assert [image["name"] for image in pages.told["images"]] == ["photo.png"]
    assert "images for model.safetensors: Resize" in said.err
    pages.serve("csra:model.safetensors", "--beside", "csra:model.safetensors", "--device", "cpu")
    assert [model["name"] for model in pages.told["models"]] == ["model", "model #2"]


def test_a_host_that_others_reach_is_warned_of(pages: Pages) -> None:
    said = pages.serve("model.safetensors", "--host", "0.0.0.0", "--gpus", 0)
    assert re.search(r"^warning: http://0\.0\.0\.0:\d+/ is not only for this machine", said.err, re.MULTILINE)
    assert "warning" not in pages.serve("model.safetensors", "--host", "localhost", "--gpus", 0).err
    refused = pages.serve("model.safetensors", "--host", "192.0.2.1", "--port", 80, expect=2).err  # nobody's address
    assert "--host 192.0.2.1 --port 80: nothing can be served there" in refused


def test_whose_weights_and_which_are_read_as_typed(pages: Pages, demo_root: Path) -> None:
    assert (
        "is a checkpoint of 'csra', not of 'lsas'"
        in pages.serve("model.safetensors", "--method", "lsas", expect=3).line
    )
    assert "--recipe demo changes nothing" in pages.serve("model.safetensors", "--recipe", "demo", expect=2).line
    assert "ema" in pages.serve("model.safetensors", "--weights", "ema", expect=3).line
    torch.save(load_file("model.safetensors"), "plain.pth")
    told = ("plain.pth", "--method", "csra", "--recipe", "demo", "--image-size", 48, "--gpus", 0)
    for root, first in ((".", "class 0"), (demo_root, DIGITS[0])):
        pages.serve(*told, "--data-root", root)
        assert pages.told["models"][0]["classes"][0] == first
        assert "size=[48, 48]" in pages.told["models"][0]["images"]
    torch.save({"model": load_file("model.safetensors"), "args": Foreign()}, "foreign.pth")
    assert "--trust-checkpoint" in pages.serve("foreign.pth", "--recipe", "demo", expect=3).line
    pages.serve("foreign.pth", "--recipe", "demo", "--trust-checkpoint", "--gpus", 0)


def test_weights_of_a_file_fill_a_network_of_ones_own(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("own_of_explore.py").write_text(BUILD)
    weights = {"0.weight": torch.zeros(4, 3, 3, 3), "0.bias": torch.ones(4)}
    weights |= {"3.weight": torch.zeros(2, 4), "3.bias": torch.tensor([0.0, 2.0])}
    torch.save(weights, "w.pth")
    typed = ("own_of_explore:build", "photo.png", "--method", "plain", "--weights-file", "w.pth", "--gpus", 0)
    pages.serve(*typed)
    assert pages.scores == pytest.approx([0.119203, 0.880797], abs=1e-6)


def test_unreadable_images_stop_it_or_are_left_out_as_typed(pages: Pages) -> None:
    Path("broken.png").write_bytes(b"no image")
    typed = ("model.safetensors", "broken.png", "photo.png", "--gpus", 0)
    assert "image broken.png cannot be read" in pages.serve(*typed, expect=3).err
    assert "left out: image broken.png" in pages.serve(*typed, "--on-bad-image", "skip").err
    assert [image["name"] for image in pages.told["images"]] == ["photo.png"]


def test_the_machine_is_as_typed(pages: Pages) -> None:
    with observed() as seen:
        pages.serve("model.safetensors", "photo.png", "--device", "cpu", "--threads", 3)
    assert seen.threads == {3}
    assert "--device nothing" in pages.serve("model.safetensors", "--device", "nothing", expect=2).line
    if not torch.cuda.is_available():
        assert "--gpus 1 asked for" in pages.serve("model.safetensors", "--gpus", 1, expect=2).line


def test_ctrl_c_ends_it_in_one_line(here: Path, tmp_path: Path) -> None:
    weights = write_model(here / "model.safetensors", backbone="resnet18", image_size=32)
    running = ForkedRun(["explore", weights, "--gpus", 0, "--threads", 1], tmp_path / "log")
    assert running.wait_until(lambda: running.log.exists() and "Ctrl-C" in running.log.read_text())
    opened = running.log.read_text()
    url = re.search(r"^open (http://127\.0\.0\.1:\d+/) in a browser; Ctrl-C ends it\n$", opened, re.MULTILINE)
    assert url, opened
    assert content(url[1])["models"][0]["name"] == "model"
    os.kill(running.pid, signal.SIGINT)
    assert running.wait(60) == [130]
    said = running.log.read_text().removeprefix(opened)
    assert said.splitlines()[-1] == "stopped by SIGINT; the same command starts it again"
