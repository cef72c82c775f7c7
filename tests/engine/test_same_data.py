"""A run goes on with the data it began with, in all its processes, and is measured on classes that it knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from attnbias.data.prepare import prepare
from attnbias.data.sets.contract import PrepareOptions
from attnbias.methods.engine.run_folder import MANIFEST, RunFolder, crc32
from tests.helpers.forked import FORKS, ForkedRun, enter, free_port
from tests.helpers.tiny_runs import instead

RUN = ["--recipe", "demo", "--epochs", 2, "--batch-size", 6, "--image-size", 32, "--gpus", 0, "--threads", 1]


def make_images(folder: Path, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for position in range(6):
            Image.new("RGB", (32, 32), (40 * position, 90 * number, 20)).save(folder / name / f"{position}.png")


def prepare_images(root: Path, folder: Path) -> None:
    prepare(str(folder), None, root, PrepareOptions())


def command(here: Path, *words: Any) -> tuple[int | None, str]:
    """Run `attnbias`; return its exit code and what it said, on one line."""
    log = here / "log"
    log.unlink(missing_ok=True)
    (code,) = ForkedRun(words, log).wait()
    return code, " ".join(log.read_text().split())


def train(here: Path, *more: Any) -> tuple[int | None, str]:
    words = ["train", "csra", *RUN, "--dataset", "pets", "--data-root", here / "data", "--out", here / "run"]
    return command(here, *words, *more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("trained")
    make_images(here / "pets")
    prepare_images(here / "data", here / "pets")
    code, said = train(here)
    assert code == 0, said
    return here


@pytest.fixture
def here(trained: Path, tmp_path: Path) -> Path:
    """A copy of a run, its images and its prepared data, all in another place: a moved set is the same set."""
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    shutil.rmtree(copy / "data")
    prepare_images(copy / "data", copy / "pets")
    return copy


def relabel(folder: Path) -> None:
    (folder / "cat" / "3.png").rename(folder / "dog" / "3b.png")


def rename_a_class(folder: Path) -> None:
    (folder / "cat").rename(folder / "bird")


def add_an_image(folder: Path) -> None:
    shutil.copy(folder / "dog" / "5.png", folder / "dog" / "6.png")


def remove_an_image(folder: Path) -> None:
    (folder / "dog" / "1.png").unlink()


def add_a_class(folder: Path) -> None:
    shutil.copytree(folder / "dog", folder / "emu")


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (relabel, "split 'train': 1 record differs, first 'dog/3b.png'"),
        (add_an_image, "split 'train': 1 record differs (12 then, 13 now), first 'dog/6.png'"),
        (rename_a_class, "classes differ: class 0 was 'cat' and is 'bird' (1 of 2)"),
        (remove_an_image, "split 'train': 1 record differs (12 then, 11 now), first number 7 is gone"),
        (add_a_class, "classes differ: 2 then, 3 now"),
    ],
)
def test_resuming_on_changed_data_is_refused_by_name(change: Callable[[Path], None], words: str, here: Path) -> None:
    change(here / "pets")
    shutil.rmtree(here / "data")
    prepare_images(here / "data", here / "pets")
    before = files_of(here / "run")
    code, said = train(here, "--resume", "auto")
    assert (code, words in said) == (2, True), said
    assert files_of(here / "run") == before


def test_what_a_generated_set_was_made_by_counts(tmp_path: Path) -> None:
    words = ["train", "csra", *RUN, "--dataset", "demo", "--data-root", tmp_path / "data", "--out", tmp_path / "run"]
    for size, expected in ((32, 0), (48, 2)):
        settings = {"train": 12, "eval": 6, "size": size}
        prepare("demo", None, tmp_path / "data", PrepareOptions(settings=settings, overwrite=True))
        code, said = command(tmp_path, *words, "--resume", "auto")
        assert code == expected, said
    assert "settings was" in said


def test_resuming_on_the_same_data_goes_on(here: Path) -> None:
    code, said = train(here, "--resume", "auto")
    assert code == 0, said
    assert "warning: " + str(here) not in said
    told = json.loads((here / "run" / "data.json").read_text())["splits"]
    assert told["train"]["classes"] == ["cat", "dog"]


def test_a_checkpoint_that_says_nothing_of_its_data_resumes_with_a_warning(here: Path) -> None:
    """As earlier versions wrote it."""
    newest = RunFolder(here / "run").latest()
    assert newest is not None
    progress = json.loads((newest / "progress.json").read_text())
    del progress["data"]
    (newest / "progress.json").write_text(json.dumps(progress))
    manifest = json.loads((newest / MANIFEST).read_text())
    file = newest / "progress.json"
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "crc32": crc32(file)}
    (newest / MANIFEST).write_text(json.dumps(manifest))
    code, said = train(here, "--resume", "auto")
    assert code == 0, said
    assert "so that a change of the records since then cannot be seen" in said


def test_another_split_that_picks_the_best_weights_is_refused(tmp_path: Path, demo_root: Path) -> None:
    words = ["train", "csra", *instead(RUN, "--batch-size", 36), "--data-root", demo_root, "--out", tmp_path / "run"]
    assert command(tmp_path, *words, "--eval-splits", "val")[0] == 0
    code, said = command(tmp_path, *words, "--eval-splits", "counter,val", "--resume", "auto")
    assert code == 2
    assert "picks its best weights by split 'val', not 'counter'; resume with --eval-splits val" in said


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("car", "van"), "class 0 was 'cat' and is 'car' (2 of 2); name the right one with --dataset"),
        (("cat", "van"), "class 1 was 'dog' and is 'van' (1 of 2)"),
    ],
)
def test_val_refuses_a_set_with_as_many_other_classes(
    classes: tuple[str, ...], words: str, trained: Path, tmp_path: Path
) -> None:
    make_images(tmp_path / "others", classes)
    prepare_images(tmp_path / "data", tmp_path / "others")
    common = ["csra", "--load-from", trained / "run", "--dataset", "others", "--data-root", tmp_path / "data"]
    code, said = command(tmp_path, "val", *common, "--gpus", 0)
    assert (code, f"was trained on other classes than dataset 'others' has: {words}" in said) == (2, True), said


def start_two(here: Path, *different: list[Any]) -> list[tuple[int | None, str]]:
    """Two processes of one run, each with words of its own; what each ended with and said."""
    words = ["train", "csra", *RUN, "--dataset", "pets", "--out", here / "two"]
    port, started = free_port(), []
    for rank, own in enumerate(different):
        log = here / f"log-{rank}"
        process = FORKS.Process(target=enter, args=([str(word) for word in (*words, *own)], log, rank, 2, port))
        process.start()
        started.append((process, log))
    for process, _ in started:
        process.join(60)
        if process.is_alive():
            process.kill()
    return [(process.exitcode, " ".join(log.read_text().split())) for process, log in started]


def test_processes_with_other_options_end_at_once(here: Path) -> None:
    root = ["--data-root", here / "data"]
    for code, said in start_two(here, [*root, "--lr", 0.1], [*root, "--lr", 0.2]):
        assert code == 2, said
        assert "processes 0 and 1 of this run differ in --lr: 0.1 and 0.2; start all" in said
    assert not (here / "two").exists()


def test_processes_with_other_data_end_at_once(here: Path) -> None:
    add_an_image(here / "pets")
    prepare_images(here / "other", here / "pets")
    for code, said in start_two(here, ["--data-root", here / "data"], ["--data-root", here / "other"]):
        assert code == 2, said
        assert "processes 0 and 1 of this run differ in the data of split 'train'; start all" in said
    assert not (here / "two").exists()
