"""Pictures and texts end to end: each task on real pictures, published weights, retrieval, starts, and maps."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import attnbias

SMALL = ["--image-size", "32", "--fusion-width", "32", "--fusion-layers", "1", "--batch-size", "4", "--epochs", "2"]
RUN = ["--gpus", "0", "--threads", "1", "--log-every", "1"]


def write(path: Path, content: Any, *, lines: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, content)) if lines else json.dumps(content))


# Each task on real pictures -------------------------------------------------------------------------------------------


def vqa_source(fixtures: Path, source: Path) -> list[str]:
    """VQAv2's official layout with its three questions in train and in val."""
    questions = json.loads((fixtures / "vqav2" / "questions.json").read_text())
    entries = json.loads((fixtures / "vqav2" / "annotations.json").read_text())["annotations"]
    for entry in entries:  # the fixture leaves out what the official files have
        entry["multiple_choice_answer"] = Counter(a["answer"] for a in entry["answers"]).most_common(1)[0][0]
    for split in ("train2014", "val2014"):
        write(source / f"v2_OpenEnded_mscoco_{split}_questions.json", questions)
        write(source / f"v2_mscoco_{split}_annotations.json", {"annotations": entries})
        (source / split).mkdir()
        for picture in (fixtures / "images" / "vqav2").iterdir():
            (source / split / f"COCO_{split}_{picture.stem[-12:]}.jpg").symlink_to(picture)
    return ["--min-answers", "1"]


def snli_ve_source(fixtures: Path, source: Path) -> list[str]:
    """SNLI-VE's layout, the same 16 hypotheses in every split."""
    source.mkdir()
    for split in ("train", "dev", "test"):
        shutil.copy(fixtures / "visual_entailment" / "sample_pairs.jsonl", source / f"snli_ve_{split}.jsonl")
    (source / "flickr30k-images").symlink_to(fixtures / "images" / "visual_entailment")
    return []


def nlvr2_source(fixtures: Path, source: Path) -> list[str]:
    """NLVR2's layout, the same eight statements in train and dev."""
    rows = [json.loads(line) for line in (fixtures / "nlvr2" / "tiny-dev.json").read_text().splitlines()]
    write(source / "nlvr2" / "data" / "dev.json", rows, lines=True)
    write(source / "nlvr2" / "data" / "train.json", [{**row, "directory": 0} for row in rows], lines=True)
    for folder in (source / "dev", source / "dev" / "0"):
        folder.mkdir()
        for picture in (fixtures / "images" / "nlvr2").glob("dev-*"):
            (folder / picture.name).symlink_to(picture)
    return []


def flickr30k_source(fixtures: Path, source: Path) -> list[str]:
    """Karpathy's layout: five pictures with five captions each, in every split."""
    images = []
    for file in sorted((fixtures / "flickr30k" / "sentences").glob("*.txt")):
        # Phrases are marked as [/EN#12/people Two men].
        lines = [re.sub(r"\[/EN\S+ ([^]]*)\]", r"\1", line) for line in file.read_text().splitlines()]
        sentences = [{"raw": line.strip()} for line in lines]
        images += [
            {"filename": f"{file.stem}.jpg", "split": s, "sentences": sentences} for s in ("train", "val", "test")
        ]
    write(source / "dataset_flickr30k.json", {"images": images})
    (source / "flickr30k-images").symlink_to(fixtures / "images" / "flickr30k")
    return []


TASKS: dict[str, tuple[str, Callable[[Path, Path], list[str]], str]] = {
    "vqa": ("vqav2", vqa_source, "vqa_score"),
    "snli-ve": ("snli-ve", snli_ve_source, "accuracy"),
    "nlvr2": ("nlvr2", nlvr2_source, "accuracy"),
    "retrieval": ("flickr30k", flickr30k_source, "r1_sum"),
}


@pytest.mark.parametrize("task", TASKS)
def test_prepare_train_and_val(task: str, real_data: Path, tmp_path: Path) -> None:
    """`attnbias train absvit --task TASK` learns real samples, and `val` finds the figures of the run again."""
    dataset, lay_out, measure = TASKS[task]
    options = lay_out(real_data / "vl_fixtures", tmp_path / "source")
    root, run = tmp_path / "root", tmp_path / "run"
    attnbias("prepare-data", dataset, "--source", tmp_path / "source", "--root", root, *options, expect=0)
    recipe = ["--task", task, "--recipe", f"tiny-{task}", *SMALL]
    attnbias("train", "absvit", *recipe, *RUN, "--data-root", root, "--out", run, expect=0)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line["loss"] for line in lines if line["split"] == "train"]
    assert trained[-1] < trained[0]
    (last,) = [line for line in lines if line["split"] != "train" and line["epoch"] == 2]
    table = tmp_path / "val.json"
    attnbias("val", "absvit", "--load-from", run, "--data-root", root, "--gpus", "0", "--json", table, expect=0)
    assert json.loads(table.read_text())[0]["measures"][measure] == pytest.approx(
        max(line[measure] for line in lines if measure in line), rel=1e-6
    ), last
