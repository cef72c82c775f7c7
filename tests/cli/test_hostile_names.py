"""Names of classes and files are data: shown as they are, harmless on a terminal, in a spreadsheet and in a browser."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from attnbias.methods.engine.text import (
    brief,
    fill_template,
    json_in_script,
    markdown_cell,
    read_csv,
    visible,
    write_csv,
)
from tests.helpers.command_line import Result, attnbias

CLASSES = (
    *(
        "[/b]",
        "[v2] x",
        ":car:",
        "</script>",
        "{{script}}",
        "{{title}}",
        "=1+1",
        "-@cmd",
        "'+quoted",
        "a|b`c",
        "$x^",
        "_",
    ),
    *("\x1b[2Jred", "one\ntwo", "\u202eevil", "\x9b31m", "line\u2028end", "-1.5"),
)
IMAGES = (
    "[v2] [b].png",
    "=2+2.png",
    "\x1b]0;title\x07.png",
    "a\nb.png",
    "{{data}}.png",
    "b\udcff.png",
    "\u202egnp.png",
)
CPU = ["--gpus", 0, "--threads", 1]
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What must reach no terminal."""


def harmless(result: Result) -> Result:
    """The result, whose words hold nothing that a terminal obeys."""
    assert not RAW.search(result.out + result.err), result
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hostile names, a COCO set of them, and two runs trained on it."""
    folder = tmp_path_factory.mktemp("hostile")
    originals = folder / "[b] set"
    originals.mkdir()
    images, boxes = [], []
    for number, name in enumerate(IMAGES):
        Image.new("RGB", (32, 32), (30 * number, 90, 20)).save(originals / name)
        images.append({"id": number, "file_name": name, "width": 32, "height": 32})
        for label in range(len(CLASSES)):
            if label and (number + label) % 3:
                box = {
                    "bbox": [4, 4, 12, 12],
                    "segmentation": [[4, 4, 16, 4, 16, 16, 4, 16]],
                    "area": 144,
                    "iscrowd": 0,
                }
                boxes.append({"id": len(boxes), "image_id": number, "category_id": label, **box})
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES)]
    table = originals / "[x]=set.json"
    table.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    told = harmless(attnbias("prepare-data", table, "--root", folder / "ds", expect=0)).out
    assert f"never in train: {CLASSES[0]}\n" in told
    for run in ("_[i]", "=run"):
        start = ["train", "csra", "--recipe", "demo", "--backbone", "tiny", "--epochs", 1, "--batch-size", 4]
        data = ["--image-size", 32, "--dataset", table, "--eval-splits", "train", "--data-root", folder / "ds"]
        harmless(attnbias(*start, *data, *CPU, "--out", folder / run, expect=0))
    return folder


def of(place: Path, *command: Any) -> Result:
    return harmless(attnbias(*command, "--data-root", place / "ds", expect=0))


def test_every_command_shows_them_as_they_are(place: Path, tmp_path: Path) -> None:
    """One journey: what a step keeps is what the next one reads."""
    for run in ("_[i]", "=run"):
        loaded = ["csra", "--load-from", place / run]
        wanted = ["--split", "train", "--bias", "--store", "--per-class", "--csv", tmp_path / f"{run}.csv"]
        shown = of(place, "val", *loaded, *CPU, *wanted, "--json", tmp_path / f"{run}.json").out
        for name in CLASSES:
            assert f"\n{visible(name)} " in shown
        (result,) = json.loads((tmp_path / f"{run}.json").read_text())
        assert result["classes"] == list(CLASSES)
    header, *rows = read_csv(tmp_path / "=run.csv")
    assert header[1 : 1 + len(CLASSES)] == [f"target:{name}" for name in CLASSES]
    assert sorted(row[0] for row in rows) == sorted(visible(name) if "\udcff" in name else name for name in IMAGES)

    runs = [place / "_[i]", place / "=run"]
    compared = of(place, "compare", *runs, "--page", "--plots", "--out", tmp_path / "compared")
    assert "=run" in compared.out
    table = [row[2] for row in read_csv(tmp_path / "compared" / "comparison.csv")]
    assert table[1:3] == [str(run) for run in runs]
    of(place, "visualize", *loaded, place / "[b] set", "--out", tmp_path / "[v] out")
    for page in (tmp_path / "compared" / "comparison.html", tmp_path / "[v] out" / "gallery.html"):
        data = re.search(r'<script type="application/json" id="page">(.*)</script>', page.read_text())
        assert data is not None
        content = json.loads(data[1])
        assert content["classes"] == [visible(name) for name in CLASSES]
        assert {item["name"] for item in content["items"]} == {visible(name) for name in IMAGES}

    named = of(place, "predict", "--load-from", place / "=run", place / "[b] set", *CPU, "--threshold", 0)
    assert len(named.out.splitlines()) == len(IMAGES)
    files = ["--csv", tmp_path / "p.csv", "--json", tmp_path / "p.json"]
    of(place, "predict", "--load-from", place / "=run", place / "[b] set", *CPU, *files)
    assert next(read_csv(tmp_path / "p.csv")) == ["path", *CLASSES]
    assert visible(CLASSES[0]) in harmless(attnbias("weights", "inspect", place / "=run", expect=0)).out
    assert harmless(attnbias("list", "datasets", "--root", place / "ds", expect=0)).err == ""


def test_errors_and_logs_are_one_harmless_line(place: Path) -> None:
    bad = place / "bad\n\x1b[2J[b]\udcff.png"
    bad.write_bytes(b"no image")
    line = harmless(attnbias("predict", "--load-from", place / "=run", bad, *CPU, expect=3)).line
    assert r"bad\n\x1b[2J[b]\xff.png" in line
    assert r" \x1b[/x] " in harmless(attnbias("prepare-data", "\x1b[/x]", expect=2)).line


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    cells = ["=1", "+a", "-b", "@c", "\td", "\ne", "\uff1df", "'=g", "''=h", "'i", "-1.5", "+2e-3", "-inf", "plain", ""]
    write_csv(tmp_path / "t.csv", [cells, [-1.5, None, 3]])
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        raw, numbers = csv.reader(file)
    assert [cell for cell in raw if cell[:1] in "=+-@\t\n\uff1d"] == ["-1.5", "+2e-3", "-inf", ""]
    assert numbers == ["-1.5", "", "3"]
    assert next(read_csv(tmp_path / "t.csv")) == cells


def test_pages_take_a_name_for_a_name() -> None:
    page = "<b>{{title}}</b><script>{{data}}</script>{{script}}"
    names = ["{{script}}", "</script><!--", "\u2028", "\udcff", '"']
    filled = fill_template(page, {"title": "{{data}}", "data": json_in_script(names), "script": "run()"})
    assert filled.startswith("<b>{{data}}</b>")
    assert filled.endswith("</script>run()")
    assert filled.count("</script>") == 1
    assert "<!--" not in filled
    assert json.loads(filled[len("<b>{{data}}</b><script>") : -len("</script>run()")]) == [visible(n) for n in names]
    assert markdown_cell("a|b\n[c](d)<e>") == r"a\|b\\n\[c\](d)\<e\>"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "1"},
    ],
)
def test_any_terminal_takes_it(environment: dict[str, str], place: Path, tmp_path: Path) -> None:
    table = tmp_path / "set.csv"
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    table.write_text("path,label\n0.png,größe\n0.png,日本\n", encoding="utf-8")
    command = [sys.executable, "-m", "attnbias", "prepare-data", table, "--root", tmp_path / "ds"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr


def test_a_reader_that_leaves_ends_nothing() -> None:
    command = f"{sys.executable} -m attnbias list recipes --verbose | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


NAMED = [
    ("train", "NAME"),
    ("train", "csra", "--dataset", "NAME"),
    ("train", "csra", "--recipe", "NAME"),
    ("train", "csra", "--NAME", "1"),
    ("train", "csra", "--recipe", "demo", "--backbone", "NAME", "--dry-run"),
    ("val", "csra", "--load-from", "NAME"),
    ("val", "csra", "--load-from", "x", "--corrupt", "NAME"),
    ("predict", "--load-from", "x", "NAME"),
    ("prepare-data", "NAME"),
    ("prepare-data", "demo", "--root", "NAME"),
    ("prepare-data", ".", "--name", "NAME"),
    ("compare", "NAME"),
    ("weights", "fetch", "NAME"),
    ("weights", "inspect", "NAME"),
    ("list", "weights", "NAME"),
]
"""Commands that name what cannot be."""


@pytest.mark.parametrize("command", NAMED, ids=" ".join)
def test_a_name_without_end_is_shown_in_part(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x" * 5000, "x y " * 1250, "\xe9/" * 2500):
        done = attnbias(*(word.replace("NAME", name) for word in command))
        assert done.code in (2, 3)
        assert len(done.line) <= 2100
        assert name not in done.line


def test_a_long_path_that_can_be_is_shown_whole() -> None:
    path = "/".join(["x" * 255] * 4)
    assert brief(f"no file {path}; give another") == f"no file {path}; give another"
    assert brief("x" * 300 + " is none") == "x" * 40 + "...(300 letters)..." + "x" * 40 + " is none"
    cut = brief("word " * 1000 + "and the command that mends it")
    assert len(cut) < 2000
    assert cut.endswith("and the command that mends it")
