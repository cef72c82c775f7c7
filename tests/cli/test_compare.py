"""`val --store` and `compare`: what run folders keep, paired differences, tables, plots, the page in a real browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from attnbias.methods.engine.evaluation.comparison import compared, read_run
from attnbias.methods.engine.evaluation.comparison_tables import number
from attnbias.methods.engine.metrics import average_precision
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.stored_evaluations import StoredEvaluation, stored_evaluations
from tests.helpers.accessibility import colour_scheme, low_contrast, nameless, needs_axe, serious_findings
from tests.helpers.browser import Browser
from tests.helpers.command_line import attnbias

CPU = ["--gpus", 0, "--threads", 1]


def train(method: str, out: Path, root: Path, *more: Any) -> None:
    small = ["--recipe", "demo", "--epochs", 1, "--batch-size", 24, "--image-size", 32, *CPU]
    attnbias(
        "train", method, *small, "--eval-splits", "val,counter", "--data-root", root, "--out", out, *more, expect=0
    )


def val(method: str, run: Path, root: Path, *more: Any, expect: int = 0) -> Any:
    return attnbias("val", method, "--load-from", run, "--data-root", root, *CPU, *more, expect=expect)


@pytest.fixture(scope="module")
def runs(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two heads on one backbone and a transformer, a breath of training each, evaluated with attention bias."""
    folder = tmp_path_factory.mktemp("runs")
    for method, name, more in (
        ("csra", "plain", ["--lam", 0]),
        ("csra", "csra", []),
        ("absvit", "vit", ["--no-top-down"]),
    ):
        train(method, folder / name, demo_root, *more)
        val(method, folder / name, demo_root, "--split", "val,counter", "--bias", "--reliance", "--store")
    return [folder / name for name in ("plain", "csra", "vit")]


def evaluation(run: Path, split: str) -> StoredEvaluation:
    return next(each for each in stored_evaluations(run) if each.split == split)


# What is stored -------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_scores_exactly(runs: list[Path]) -> None:
    stored = evaluation(runs[0], "demo/counter")
    scores = stored.scores()
    assert scores.scores.shape == scores.targets.shape == (24, 10)
    assert (
        100 * np.nanmean(average_precision(scores.targets, scores.scores, "mean")) == stored.content["measures"]["mAP"]
    )
    assert scores.paths[0] == "counter_000000.jpg"
    assert stored.content["weights"].startswith("best checkpoint")
    assert set(stored.content["reliance"]["means"]) >= {"object_share", "context_share"}


@pytest.fixture(scope="module")
def with_gradcam(runs: list[Path], demo_root: Path) -> Path:
    """The second run, which has another map's bias beside that of its own."""
    val("csra", runs[1], demo_root, "--bias", "--map", "gradcam", "--store")
    return runs[1]


def test_bias_is_kept_by_map(with_gradcam: Path) -> None:
    stored = evaluation(with_gradcam, "demo/val")
    for kind in ("score", "gradcam"):
        content = stored.bias(kind)
        assert content is not None
        assert content["map"] == kind
        table = stored.bias_samples(kind)
        assert len(table["picture"]) == content["samples"]
        assert table["iou"].mean() == pytest.approx(content["means"]["iou"])
    assert stored.content["reliance"]  # of the first evaluation: the same weights


def test_nothing_stored_is_replaced_unasked(runs: list[Path], demo_root: Path, tmp_path: Path) -> None:
    refused = val("csra", runs[0], demo_root, "--bias", "--store", expect=2)
    assert "bias-score exists; add --overwrite" in refused.line
    val("csra", runs[0], demo_root, "--bias", "--store", "--overwrite")
    content = runs[0] / "evaluations" / "demo" / "val" / "evaluation.json"
    before = content.read_text()
    content.write_text(before.replace("best checkpoint", "another checkpoint"))
    assert "other weights" in val("csra", runs[0], demo_root, "--store", expect=2).line
    content.write_text(before)
    file = next((runs[0] / "checkpoints").glob("step-*/model.safetensors"))
    assert "none; use --json" in val("csra", file, demo_root, "--store", expect=2).line


def test_a_damaged_evaluation_is_named(runs: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "evaluations" / "demo" / "val"
    copy.mkdir(parents=True)
    for name in ("recipe.yaml", "metrics.jsonl"):
        (tmp_path / name).write_bytes((runs[0] / name).read_bytes())
    (copy / "evaluation.json").write_text("{")
    failed = attnbias("compare", tmp_path, expect=3)
    assert "evaluation.json is damaged" in failed.line


# The comparison -------------------------------------------------------------------------------------------------------


def test_differences_are_paired_with_intervals(runs: list[Path]) -> None:
    lines = {(line.split, line.measure): line for line in compared([read_run(run) for run in runs])}
    for run_place, run in enumerate(runs):
        for split in ("demo/val", "demo/counter"):
            # Not the run's own figure: by CSRA's rule equal scores count in the order of the samples.
            kept = evaluation(run, split).scores()
            positive = kept.targets > 0
            precisions = [
                average_precision_score(positive[:, label], kept.scores[:, label])
                for label in np.flatnonzero(positive.any(axis=0))
            ]
            assert lines[split, "mAP"].values[run_place] == pytest.approx(100 * np.mean(precisions))
    for measure in ("mAP", "area_matched", "position_biased"):
        line = lines["demo/counter", measure]
        assert line.changes[0] is None
        alike = slice(1, None if measure == "mAP" else 2)  # the third run's own map is of another kind
        for value, change in zip(line.values[alike], line.changes[alike], strict=True):
            assert change is not None
            assert change.difference == pytest.approx(value - line.values[0])
            low, high = change.interval_95
            assert low <= change.difference <= high
            assert change.p is not None
            assert 0 < change.p <= 1
    first, other = (
        evaluation(run, "demo/val").bias_samples(kind) for run, kind in zip(runs, ("score", "score"), strict=False)
    )
    expected = (other["energy"] - first["energy"]).mean()
    change = lines["demo/val", "energy"].changes[1]
    assert change is not None
    assert change.difference == pytest.approx(expected)
    gap = lines["", "mAP demo/val - counter"].values[0]
    assert gap == pytest.approx(lines["demo/val", "mAP"].values[0] - lines["demo/counter", "mAP"].values[0])


def test_a_run_does_not_differ_from_itself(runs: list[Path]) -> None:
    run = read_run(runs[1])
    for line in compared([run, run]):
        change = line.changes[1]
        if change is not None:
            assert (change.difference, change.p) == (0, 1), line.measure
            low, high = change.interval_95
            assert low == -high, line.measure  # of a flag: none of so few samples differs, of all some may


def test_a_run_that_ended_before_its_recipe_is_named(runs: list[Path], tmp_path: Path) -> None:
    stopped = shutil.copytree(runs[1], tmp_path / "stopped")
    recipe = stopped / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("\nepochs: 1\n", "\nepochs: 3\n"))
    assert f"{stopped} ended after epoch 1 of 3" in attnbias("compare", runs[0], stopped, expect=0).out
    assert "ended after" not in attnbias("compare", *runs, expect=0).out


def test_maps_are_compared_by_name_or_as_each_model_s_own_where_both_are_of_one_kind(
    runs: list[Path], demo_root: Path, tmp_path: Path
) -> None:
    vit = read_run(runs[2])
    assert (vit.map("own"), vit.map("gradcam")) == ("prompt", "gradcam")
    lines = {line.measure: line for line in compared([read_run(run) for run in runs]) if line.split == "demo/val"}
    assert lines["iou"].values[2] is not None
    assert [change is None for change in lines["iou"].changes] == [True, False, True]
    (said,) = (words for line in lines.values() for words in line.remarks)
    for words in (f"attention of {runs[2]} is its own map (prompt of absvit)", "score of csra", "--map gradcam"):
        assert words in said
    explained = []
    for run, method in ((runs[0], "csra"), (runs[2], "absvit")):
        copy = Path(shutil.copytree(run, tmp_path / run.name))
        val(method, copy, demo_root, "--split", "val", "--bias", "--map", "gradcam", "--store")
        explained.append(read_run(copy))
    (line,) = (line for line in compared(explained, "gradcam") if line.measure == "iou")
    assert line.split == "demo/val", "of counter no Grad-CAM is kept"
    assert line.changes[1] is not None, "one explainer is one kind"
    assert "did you mean 'gradcam'" in attnbias("compare", runs[0], "--map", "grad-cam", expect=2).line


def with_file(run: Path, name: str, content: Any) -> Path:
    file = run / "evaluations" / "demo" / "val" / name
    file.write_text(json.dumps(content))
    return file


def test_robustness_that_a_run_holds_is_shown(runs: list[Path]) -> None:
    rows = [
        {"test": "demo/val fgsm", "mAP": 12.5, "CF1": 3.0, "low_95": 9.5, "high_95": 15.5},
        {"test": "demo/val fog", "mAP": 20.0},  # as stored before rows had intervals
    ]
    other = [{**rows[0], "mAP": 22.5, "low_95": 18.5, "high_95": 26.5}, {"test": "demo/val fog", "mAP": 30.0}]
    files = [with_file(run, "robustness.json", table) for run, table in zip(runs, (rows, other), strict=False)]
    try:
        lines = {line.measure: line for line in compared([read_run(run) for run in runs])}
    finally:
        for file in files:
            file.unlink()
    assert lines["demo/val fgsm: mAP"].values == [12.5, 22.5, None]
    change = lines["demo/val fgsm: mAP"].changes[1]
    assert change is not None
    assert (change.difference, change.interval_95, change.paired) == (10, (5, 15), False)
    assert lines["demo/val fog: mAP"].values == [20, 30, None]
    assert lines["demo/val fog: mAP"].changes[1].interval_95 is None


def test_every_difference_has_an_interval_and_all_are_read_together(runs: list[Path], demo_root: Path) -> None:
    for run in runs[:2]:
        val("csra", run, demo_root, "--split", "val", "--context", "counter", "--attack", "fgsm", "--store")
    lines = compared([read_run(run) for run in runs[:2]])
    names = {line.measure for line in lines if line.changes[1]}
    assert names >= {
        "mAP",
        "mAP demo/val - counter",
        "object_share",
        "context_share",
        "context_gap",
        "demo/val fgsm: mAP",
        "energy",
    }
    for line in lines:
        if line.changes[1] and line.measure not in ("cooccur_AP", "exclusive_AP", "context_gap"):
            assert line.changes[1].interval_95, line.measure
            assert line.changes[1].p_together >= line.changes[1].p
    stored = evaluation(runs[1], "demo/val").content["context"]
    gap = next(line for line in lines if line.measure == "context_gap")
    assert gap.values[1] == pytest.approx(stored["context_gap"])
    said = attnbias("compare", *runs[:2], expect=0).out
    told = " ".join(said.split())
    assert "differences are shown at once" in told
    unknown = [line.measure for line in lines if line.changes[1] and not line.changes[1].interval_95]
    assert ("no interval" in told) == bool(unknown)  # pairs with a positive or two of a class
    assert ", ".join(unknown) in told
    assert "not paired, so that their intervals are rather too wide: demo/val: mAP" in told


def test_tables_hold_the_same_figures(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = attnbias("compare", *runs, "--measure", "--out", out, expect=0).out
    assert "differences to" in shown
    assert {path.name for path in out.glob("[!.]*")} == {"comparison.md", "comparison.csv", "comparison.json"}
    content = json.loads((out / "comparison.json").read_text())
    figures = {(line["split"], line["measure"]): line for line in content["lines"]}
    assert figures["", "parameters"]["values"][0] == figures["", "parameters"]["values"][1]  # lam is not a parameter
    assert all(value > 0 for value in figures["", "MACs"]["values"] + figures["", "ms an image"]["values"])
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(runs) * len(content["lines"])
    for row in rows:
        line, run = figures[row["split"], row["measure"]], list(map(str, runs)).index(row["run"])
        change = line["changes"][run] or {"difference": None, "interval_95": None, "p": None, "p_together": None}
        low, high = change["interval_95"] or (None, None)
        expected = (line["values"][run], change["difference"], low, high, change["p"], change["p_together"])
        columns = ("value", "difference", "low_95", "high_95", "p", "p_together")
        assert [float(row[name]) if row[name] else None for name in columns] == pytest.approx(expected, nan_ok=True)
    assert [row["method"] for row in rows[: len(runs)]] == ["csra", "csra", "absvit"]
    table = (out / "comparison.md").read_text().splitlines()
    table = [line for line in table if line.startswith("|")]
    assert len(table) == 2 + len(content["lines"])
    assert len({line.count("|") for line in table}) == 1
    assert "--overwrite" in attnbias("compare", *runs, "--out", out, expect=2).line


def test_plots_show_every_run_and_the_authors_own_curves(runs: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from attnbias.methods.engine.display.plots import accuracy_against_attention, learning_curves

    read = [read_run(run) for run in runs]
    labels = [line.get_label() for line in learning_curves(read).axes[0].lines]
    assert labels == [f"{run}, {split}" for run in runs for split in ("val", "counter")]
    scatter = accuracy_against_attention(read, compared(read))
    assert [axes.get_title() for axes in scatter.axes] == ["demo/counter", "demo/val"]
    found = {(line.split, line.measure): line.values for line in compared(read)}
    for axes in scatter.axes:
        points = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines]
        split = axes.get_title()
        assert points == list(zip(found[split, "area_matched"], found[split, "mAP"], strict=True))
    ida = get_method("ida")
    curves = ida.reference_curves(ida.named_recipe(ida.default_recipe("coco")).recipe)
    assert max(max(curve.values()) for curve in curves.values()) == pytest.approx(84.74, abs=0.01)
    assert ida.reference_curves(ida.named_recipe("demo").recipe) == {}
    out = tmp_path / "out"
    attnbias("compare", *runs, "--plots", "--out", out, expect=0)
    assert {path.name for path in out.glob("*.png")} == {"learning-curves.png", "accuracy-attention.png"}


def test_plots_without_stored_attention_say_which_is_missing(runs: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shutil.copytree(runs[0], tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    out = tmp_path / "out"
    said = attnbias("compare", tmp_path / "run", "--plots", "--out", out, expect=0).out
    assert "no accuracy-attention.png: no attention bias is kept; run attnbias val with --bias --store first" in said
    assert {path.name for path in out.glob("*.png")} == {"learning-curves.png"}


def test_compare_loads_no_torch_unless_models_are_needed(runs: list[Path], tmp_path: Path) -> None:
    probe = (
        "import sys\nfrom attnbias.cli.app import main\n"
        f"sys.argv = ['attnbias', 'compare', *{[*map(str, runs)]}, '--plots', '--out', {str(tmp_path / 'out')!r}]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "assert not {'torch', 'torchvision', 'timm', 'accelerate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--page"], "say where with --out DIR"),
        (["--page", "--out", "{out}", "--split", "unbiased"], "no attention bias is kept of split 'unbiased'"),
        (["--page", "--out", "{out}", "--map", "gradcam"], "run: attnbias val csra --load-from"),
    ],
)
@pytest.mark.usefixtures("with_gradcam")
def test_what_cannot_be_compared_says_what_to_do(
    runs: list[Path], demo_root: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    asked = [argument.format(out=tmp_path / "out") for argument in arguments]
    failed = attnbias("compare", *runs, *asked, "--data-root", demo_root, expect=2)
    assert words in failed.line


# The page -------------------------------------------------------------------------------------------------------------

SHOWN = "return [...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => c.dataset.name)"


@pytest.fixture(scope="module")
def page(runs: list[Path], demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "out"
    asked = ["--page", "--limit", 6, "--split", "counter", "--measure"]
    attnbias("compare", *runs, *asked, "--out", out, "--data-root", demo_root, expect=0)
    return out / "comparison.html"


def content(page: Path) -> dict[str, Any]:
    """What the page holds."""
    found = re.search(r'id="page">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found.group(1)))


def test_every_run_on_the_page_has_its_own_figures(runs: list[Path], page: Path) -> None:
    lines = [line for line in compared([read_run(run) for run in runs]) if line.split == "demo/counter"]
    shown = [run["figures"] for run in content(page)["runs"]]
    assert all(figures != shown[0] for figures in shown[1:])
    for position, figures in enumerate(shown):
        own = {line.measure.replace("_", " "): line.values[position] for line in lines}
        expected = {measure: number(value) for measure, value in own.items() if value is not None}
        assert {measure: figures[measure] for measure in expected} == expected


def test_the_page_holds_as_many_images_of_the_split_as_typed(page: Path) -> None:
    items = content(page)["items"]
    assert len(items) == 6
    assert all(item["name"].startswith("counter_") for item in items)


def test_the_page_shows_the_worst_images_first(runs: list[Path], page: Path, browser: Browser) -> None:
    tables = [
        evaluation(run, "demo/counter").bias_samples(kind)
        for run, kind in zip(runs, ("score", "score", "prompt"), strict=True)
    ]
    means = {
        str(name): np.concatenate([table["area_matched"][table["path"] == name] for table in tables]).mean()
        for name in np.unique(tables[0]["path"])
    }
    browser.open(page)
    shown = browser.run(SHOWN)
    assert len(shown) == 6
    assert [means[name] for name in shown] == pytest.approx(sorted(means.values())[:6])
    assert browser.complaints() == []


def test_every_column_has_a_map_and_figures(runs: list[Path], page: Path, browser: Browser) -> None:
    browser.open(page)
    assert browser.run("return [...document.querySelectorAll('.run h2')].map(h => h.firstChild.data)") == [
        *map(str, runs)
    ]
    browser.show(".card")  # below the runs' figures, and how far depends on how long their names are
    assert browser.run("return document.querySelectorAll('.card:first-child .stage').length") == len(runs)
    figures = "return [...document.querySelectorAll('.run')].map(r => r.querySelector('.figures').textContent)"
    for run, text in zip(runs, browser.run(figures), strict=True):
        assert f"mAP{evaluation(run, 'demo/counter').content['measures']['mAP']:.1f}" in text
        assert "area matched" in text
        assert "parameters" in text
    drawn = """return [...document.querySelectorAll('.card:first-child .heat')].map(heat =>
        heat.getContext('2d').getImageData(0, 0, heat.width, heat.height).data.some(value => value > 0)
        || !heat.parentElement.querySelector('.nothing').hidden)"""
    assert browser.run(drawn) == [True] * len(runs)


def test_chips_and_filters_change_figures_and_images(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.show(".card")
    below = "return [...document.querySelectorAll('.card:first-child .figure')].map(figure => figure.textContent)"
    browser.click(".card:first-child .chips .true")  # of what is there; it may open on a class that nobody measured
    before = browser.run(below)
    assert all(text.startswith("on the object: ") for text in before)
    wrong = browser.run("return Number(document.querySelector('button[value=wrong] span').textContent)")
    browser.click("button[value=wrong]")
    assert len(browser.run(SHOWN)) == wrong
    browser.click("button[value=right]")
    assert browser.run("return document.getElementById('count').textContent").startswith(
        f"{len(browser.run(SHOWN))} of 6"
    )
    browser.click("button[value=all]")
    browser.click(".card:first-child .chips label:last-of-type")
    assert browser.run(below) != before  # another class, or one that nobody measured
    assert browser.complaints() == []


def test_a_report_is_one_page_that_says_who_wins(
    runs: list[Path], demo_root: Path, tmp_path: Path, browser: Browser
) -> None:
    out = tmp_path / "report"
    said = attnbias("compare", *runs[:2], "--report", out, "--data-root", demo_root, expect=0).out
    assert f"written: {out}/report.html" in said
    assert {path.name for path in out.glob("[!.]*")} == {"report.html"}
    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?\w|@import|fetch\(|https?://(?!www.w3.org/2000/svg)", page)
    browser.open(out / "report.html")
    sections = "return [...document.querySelectorAll('main > section:not([hidden])')].map(s => s.id)"
    assert [name for name in browser.run(sections) if name != "suggested"] == [  # 24 images tell little of that
        *("answer", "measures", "curves", "attention", "calibration", "classes", "worst", "made")
    ]
    figures = browser.run(
        "return [...document.querySelectorAll('#four > div:first-child dd:not(.moved)')].map(d => d.innerText)"
    )
    assert figures == [f"{evaluation(run, 'demo/counter').content['measures']['mAP']:.1f}" for run in runs[:2]]
    rows = "return document.querySelectorAll('#measures tbody tr').length"
    browser.click("#measures summary")
    lines = compared([read_run(run) for run in runs[:2]])
    assert browser.run(rows) >= len(lines)
    dots = "return document.querySelectorAll('#attention .dot').length"
    assert browser.run(dots) == 2 * 2  # two runs on two splits
    texts = browser.run("return [...document.querySelectorAll('#attention svg text.name')].map(t => t.textContent)")
    assert set(texts) == {run.name for run in runs[:2]}
    assert browser.run("return [...document.querySelectorAll('#made .command')].at(-1).innerText").startswith(
        f"attnbias compare {runs[0]} {runs[1]} --report"
    )
    shows = "demo/counter: scenes whose photograph belongs to a digit that is absent"
    assert shows in browser.run("return document.getElementById('about').innerText")
    assert browser.run("return document.querySelectorAll('#worst .example').length") == 6
    assert nameless(browser) == []
    for scheme in ("light", "dark"):
        with colour_scheme(browser, scheme):
            assert low_contrast(browser) == []
    assert browser.complaints() == []


def test_the_commands_of_a_report_measure_as_what_is_stored_was_measured(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "plain"
    shutil.copytree(runs[0], run)
    for path in run.glob("evaluations/demo/*/bias-*/bias.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "truth": "boxes", "tau": 0.3}))
    attnbias("compare", run, "--report", tmp_path / "report", "--data-root", tmp_path / "nowhere", expect=0)
    page = (tmp_path / "report" / "report.html").read_text()
    assert (
        f"attnbias val csra --load-from {run} --split counter,val --bias --truth boxes --tau 0.3 --reliance --store"
        in (page)
    )


@needs_axe
def test_axe_finds_nothing_serious_in_a_report(
    runs: list[Path], demo_root: Path, tmp_path: Path, browser: Browser
) -> None:
    attnbias("compare", *runs[:2], "--report", tmp_path / "report", "--data-root", demo_root, expect=0)
    browser.open(tmp_path / "report" / "report.html")
    assert serious_findings(browser) == []


def test_on_a_phone_the_first_screen_of_a_report_says_who_wins_and_by_how_much(
    runs: list[Path], tmp_path: Path, browser: Browser
) -> None:
    """Also where the dataset is not here, which the page says in the place of its images."""
    out, nowhere = tmp_path / "report", tmp_path / "nowhere"
    attnbias("compare", *runs[:2], "--report", out, "--data-root", nowhere, expect=0)
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
    try:
        browser.open(out / "report.html")
        first = browser.run(
            "const p = document.querySelector('#answer p'); return [p.innerText, p.getBoundingClientRect().bottom]"
        )
        assert re.search(r"on demo/counter: mAP [\d.]+ against [\d.]+, [\d.]+ (more|less) than", first[0])
        assert first[1] < 844
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert "No images: " in browser.run("return document.getElementById('images').innerText")
    finally:
        browser.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.clearDeviceMetricsOverride", "params": {}})


def test_a_report_and_other_files_need_folders_of_their_own(runs: list[Path], tmp_path: Path) -> None:
    failed = attnbias("compare", runs[0], "--report", tmp_path / "x", "--out", tmp_path / "x", expect=2)
    assert "give each a folder of its own" in failed.err
