"""Those who wait see how far something is: a bar on a terminal, a line every 30 s in a pipe, nothing in a file."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from attnbias.cli.prepare_data import fetch_progress
from attnbias.methods.engine import screen
from attnbias.methods.engine.display.visualize import visualize
from attnbias.methods.engine.display.writer import VisualizationWriter
from attnbias.methods.engine.prepare_data import prepare_data
from attnbias.methods.engine.requests import PrepareRequest, VisualizeRequest
from attnbias.methods.engine.screen import TrainingBar, counted, progress
from tests.cli.test_visualize import checkpoint
from tests.helpers.command_line import attnbias
from tests.helpers.tiny_runs import instead


class Stream(io.StringIO):
    """Standard error that is a terminal, or a pipe."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def shown(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Stream:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return stream


def test_a_terminal_sees_a_bar_with_what_is_done_and_how_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = shown(Stream(terminal=True), monkeypatch)
    with progress() as tell:
        tell("images", 1200, 5000)
        tell("archive.zip", 25_000_000, 100_000_000)
    assert "images" in stream.getvalue()
    assert "1,200/5,000" in stream.getvalue()
    assert "25 MB/100 MB" in stream.getvalue()


def test_a_pipe_gets_a_plain_line_after_every_30_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = shown(Stream(terminal=False), monkeypatch), [0.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    with progress() as tell:
        for second in range(0, 101, 10):
            now[0] = float(second)
            tell("images", 10 * second, 2000)
    assert stream.getvalue().splitlines() == [
        "images: 300 of 2,000, 10/s, 0:02:50 left",
        "images: 600 of 2,000, 10/s, 0:02:20 left",
        "images: 900 of 2,000, 10/s, 0:01:50 left",
    ]


def test_a_file_gets_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        with progress() as tell:
            for second in range(200):
                now[0] = float(second)
                tell("images", second, 200)
    assert (tmp_path / "log").read_text() == ""


def test_all_items_come_whether_progress_is_shown_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    shown(Stream(terminal=False), monkeypatch)
    for told in (True, False):
        with counted([3, 1, 2], "items", of=30, shown=told) as items:
            assert list(items) == [3, 1, 2]


def test_an_evaluation_within_a_run_shows_on_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two live displays on one terminal would write over each other."""
    terminal = Stream(terminal=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    stream = shown(Stream(terminal=True), monkeypatch)
    with TrainingBar() as bar:
        bar.tell("epoch 1/2", 5, 10, "80 img/s  loss 0.25")
        with counted(range(4), "images of val", of=400) as rounds:
            list(rounds)
        bar.tell("epoch 2/2", 10, 10, "90 img/s  loss 0.20")
    assert stream.getvalue() == ""
    drawn = terminal.getvalue()
    assert all(words in drawn for words in ("epoch 1/2", "epoch 2/2", "90 img/s", "images of val"))


def test_speed_stands_beside_the_metrics_which_stay_the_same_to_the_byte(demo_root: Path, tmp_path: Path) -> None:
    small = ["--recipe", "demo", "--backbone", "tiny", "--image-size", 32, "--epochs", 2, "--batch-size", 24]
    words = ["train", "csra", *small, "--gpus", 0, "--threads", 1, "--data-root", demo_root, "--log-every", 2]
    for name in ("one", "two"):
        attnbias(*words, "--out", tmp_path / name, "--log-with", "csv", expect=0)
    one, two = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    logged = [json.loads(line) for line in one.splitlines()]
    trained = [line for line in logged if line["split"] == "train"]
    assert all(line["gradient_norm"] > 0 for line in trained)
    times = [json.loads(line) for line in (tmp_path / "one" / "timings.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in times] == [(line["step"], line["epoch"]) for line in trained]
    for line in times:
        assert line["images_per_second"] > 0
        assert 0 <= line["waiting_share"] <= 1
        assert line["peak_memory_mb"] is None or line["peak_memory_mb"] > 0
    header, *rows = (tmp_path / "one" / "metrics.csv").read_text().splitlines()
    assert len(rows) == len(logged)
    first = dict(zip(header.split(","), rows[0].split(","), strict=True))
    assert float(first["loss"]) == logged[0]["loss"]
    assert float(first["lr"]) == logged[0]["lr"][0]
    with (tmp_path / "one" / "timings.jsonl").open("a") as file:
        file.write('{"step": 99, "epoch": 2}\n{"step": 1, "ep')
    attnbias(*words, "--out", tmp_path / "one", "--resume", "auto", expect=0)
    kept = [json.loads(line) for line in (tmp_path / "one" / "timings.jsonl").read_text().splitlines()]
    assert kept == times  # what lies behind the checkpoint goes, as a torn line does


def test_every_command_that_goes_through_images_says_how_far_it_is(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--recipe", "demo", "--backbone", "tiny", "--image-size", 32, "--steps", 1, "--batch-size", 24]
    run, cpu = tmp_path / "run", ["--gpus", 0, "--threads", 1]
    monkeypatch.setattr(screen, "PLAIN_EVERY", 0.0)
    root = ["--data-root", demo_root]
    trained = attnbias("train", "csra", *small, *cpu, *root, "--out", run, expect=0)
    assert "scoring val: " in trained.err  # its evaluation
    asked = ["--load-from", run, *cpu]
    evaluated = attnbias("val", "csra", *asked, *root, "--eval-batch-size", 8, expect=0)
    assert "scoring val: 16 of 24" in evaluated.err
    assert "scoring val" not in evaluated.out
    images = demo_root / "demo" / "images" / "val"
    assert "scoring pictures: 16 of 24" in attnbias("predict", images, *asked, "--eval-batch-size", 8, expect=0).err
    drawn = attnbias("visualize", "csra", *asked, *root, "--limit", 20, "--out", tmp_path / "gallery", expect=0)
    assert "images: 10 of 20" in drawn.err


@pytest.mark.parametrize("terminal", [True, False])
def test_prepare_data_says_how_far_it_is(terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        folder = tmp_path / "pets" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    monkeypatch.setattr(screen, "PLAIN_EVERY", 0.0)
    stream = shown(Stream(terminal=terminal), monkeypatch)
    request = PrepareRequest(name=str(tmp_path / "pets"), data_root=tmp_path / "root")
    with fetch_progress() as tell:
        prepare_data(request, tell)
    told = stream.getvalue()
    if terminal:
        assert "reading headers" in told
        assert "4/4" in told
    else:
        assert "reading headers: 4 of 4" in told


def test_a_run_begins_with_what_it_is_in_few_lines(demo_root: Path, tmp_path: Path) -> None:
    small = ["--recipe", "demo", "--backbone", "tiny", "--image-size", 32, "--steps", 24, "--batch-size", 24]
    words = ["train", "csra", *small, "--gpus", 0, "--threads", 1, "--data-root", demo_root, "--log-every", 100]
    lines = attnbias(*words, "--out", tmp_path / "short", "--from-scratch", expect=0).out.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("epoch"))
    assert first <= 7
    begun = "\n".join(lines[:first])
    assert "recipe demo, but image_size 32 (not 64), steps 24 (not None), batch_size 24 (not 64)" in begun
    assert "starting weights: random" in begun
    assert "parameters on cpu; 72 training images of 'demo/train', evaluated on 24 of val" in begun
    assert "batch: global 24 = 1 process x 24 x 1 accumulation; 3 steps an epoch, 24 in all" in begun
    assert f"output folder: {tmp_path / 'short'}" in begun
    assert sum("to go, without evaluations" in line for line in lines) == 1
    longer = attnbias(*instead(words, "--steps", 1), "--out", tmp_path / "long", "--verbose", expect=0).out
    assert "drop_unlabelled" in longer
    assert "drop_unlabelled" not in begun


def test_the_bar_of_a_command_that_failed_ends_with_it(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its error is kept, as a notebook keeps the last one."""
    model = checkpoint(tmp_path / "model.safetensors", ("cat", "dog"))
    image = sorted((demo_root / "demo" / "images" / "val").iterdir())[0]
    monkeypatch.setattr(VisualizationWriter, "add", lambda *_: 1 / 0)
    shown(Stream(terminal=True), monkeypatch)
    with pytest.raises(ZeroDivisionError) as kept:
        visualize(VisualizeRequest(method="csra", paths=(image,), load_from=(str(model),), out=tmp_path / "out"))
    later = shown(Stream(terminal=True), monkeypatch)
    with progress() as tell:
        tell("images", 1, 5)
    assert "1/5" in later.getvalue()
    assert kept.tb is not None
