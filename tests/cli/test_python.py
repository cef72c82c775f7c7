"""The interface for Python: what the commands say, as values; lazy, typed, with the commands' own errors."""

from __future__ import annotations

import ast
import csv
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import attnbias
from attnbias.cli.app import app
from attnbias.methods.engine.display.visualize import BATCH
from tests.helpers.command_line import attnbias as command
from tests.helpers.small_model import write_model

REPO = Path(__file__).parents[2]
SMALL = {"recipe": "demo", "epochs": 1, "batch_size": 20, "image_size": 32, "gpus": 0, "threads": 1}
FUNCTIONS = {
    "prepare-data": "prepare_data",
    "train": "train",
    "val": "evaluate",
    "audit": "audit",
    "visualize": "gallery",
    "explore": "explore",
    "predict": "Model",
    "compare": "compare",
    "priors": "priors",
    "export": "export",
    "show": "show_recipe",
    "cite": "cite",
    "doctor": "doctor",
    "list methods": "list_methods",
    "list recipes": "list_recipes",
    "list datasets": "list_datasets",
    "list weights": "list_weights",
    "weights fetch": "fetch_weights",
    "weights inspect": "inspect_weights",
    "weights convert": "convert_weights",
    "weights push": "push_weights",
}
"""Command -> its function."""


@pytest.fixture
def model(trained: Path, demo_root: Path) -> attnbias.Model:
    """The short run of CSRA on the demo set, loaded."""
    return attnbias.load(trained, device="cpu", data_root=demo_root)


@pytest.fixture
def photos(here: Path) -> list[str]:
    """Three drawn photographs of several sizes, one stored on its side."""
    generator = np.random.default_rng(0)
    for number, (height, width) in enumerate([(70, 90), (240, 300), (64, 64)]):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1
        image.save(f"photo{number}.jpg", exif=exif)
    return ["photo0.jpg", "photo1.jpg", "photo2.jpg"]


def size_of(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def block_of_the_readme() -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```", (REPO / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


# The names ------------------------------------------------------------------------------------------------------------


def test_the_block_of_the_readme_runs_as_printed(
    trained: Path, demo_root: Path, photos: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNBIAS_DATA", str(demo_root))
    (here / "runs" / "csra").mkdir(parents=True)
    (here / "runs" / "csra" / "demo").symlink_to(trained)
    (here / "photo0.jpg").rename("photo.jpg")
    names: dict[str, Any] = {}
    exec(compile(block_of_the_readme(), "README.md", "exec"), names)
    assert size_of(Path("seen.png")) == (288, 224)
    assert (here / "runs" / "x" / "recipe.yaml").is_file()
    assert names["report"].metrics["mAP"] == names["report"][0].metrics["mAP"]


def test_importing_costs_no_torch() -> None:
    probe = (
        "import sys, attnbias\n"
        "heavy = {'torch', 'torchvision', 'timm', 'accelerate', 'numpy', 'PIL', 'pydantic', 'typer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "attnbias.list_methods(), attnbias.list_recipes(), attnbias.list_datasets(), attnbias.cite('csra')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_every_name_is_there_and_known_to_type_checkers() -> None:
    for name in attnbias.__all__:
        assert getattr(attnbias, name) is not None
        assert name in dir(attnbias)
    tree = ast.parse(Path(attnbias.__file__).read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.name for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == {*attnbias.__all__} - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = attnbias.laod


def test_every_command_is_one_function() -> None:
    names = {each.name for each in app.registered_commands if each.name}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        inner, own = group.typer_instance.registered_commands, group.typer_instance.info.name
        names |= {f"{group.name} {each.callback.__name__}" for each in inner} or {str(own)}  # one of methods has none
    assert names == {*FUNCTIONS}
    assert {*FUNCTIONS.values()} <= {*attnbias.__all__}


# What a model says ----------------------------------------------------------------------------------------------------


def test_predict_gives_the_scores_of_the_command(model: attnbias.Model, trained: Path, photos: list[str]) -> None:
    command("predict", "--load-from", trained, *photos, "--csv", "s.csv", "--json", "s.json", "--gpus", 0, expect=0)
    header, *rows = csv.reader(Path("s.csv").read_text().splitlines())
    found = model.predict(photos)
    assert (tuple(header[1:]), [row[0] for row in rows]) == (model.classes, [one.path for one in found])
    assert [[f"{score:.6f}" for score in row] for row in found.scores] == [row[1:] for row in rows]
    said = json.loads(Path("s.json").read_text())["pictures"]
    assert [[each["class"] for each in one["classes"]] for one in said] == [list(one.labels) for one in found]


def test_an_image_is_read_alike_in_whatever_form_it_comes(model: attnbias.Model, photos: list[str]) -> None:
    for photo in photos:
        expected = model.predict(photo)
        assert expected.scores.shape == (10,)
        pixels = np.asarray(ImageOps.exif_transpose(Image.open(photo)))
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        alpha = np.dstack([pixels, np.zeros_like(pixels[..., 0])])
        for form in (Path(photo), Image.open(photo), pixels, pixels / 255, alpha, tensor, tensor / 255):
            assert np.array_equal(model.predict(form).scores, expected.scores), type(form)
    every = model.predict(".")
    assert [one.path for one in every] == photos
    assert np.array_equal(model.predict([".", photos[0]]).scores[:3], model.predict([*photos, photos[0]]).scores[:3])
    batch = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    assert model.predict(batch).scores.shape == (2, 10)
    assert model.predict(np.zeros((30, 20), np.uint8)).scores.shape == (10,)


def test_a_prediction_says_its_best_classes(model: attnbias.Model, photos: list[str]) -> None:
    found = model.predict(photos[0])
    best = found.top(3)
    assert list(best.values()) == sorted(found.scores.tolist(), reverse=True)[:3]
    assert {*found.labels} == {name for name, score in found.top(10).items() if score >= 0.5}
    assert found.to_dict()["scores"][next(iter(best))] == max(best.values())
    for shown in (found, model.predict(photos)):
        assert "<img src=" in shown._repr_html_()
        assert next(iter(best)) in shown._repr_html_()


def test_unreadable_images_are_named_or_left_out(model: attnbias.Model, photos: list[str]) -> None:
    Path("broken.jpg").write_bytes(Path(photos[0]).read_bytes()[:300])
    with pytest.raises(attnbias.DataError, match=r"broken\.jpg cannot be read"):
        model.predict([photos[0], "broken.jpg"])
    found = model.predict([photos[0], "broken.jpg", photos[2]], on_bad_image="skip")
    assert [one.path for one in found] == [photos[0], photos[2]]
    assert "broken.jpg" in found.skipped[0]


@pytest.mark.parametrize("kind", ["score", "attention", "gradcam"])
def test_attention_is_what_visualize_draws(kind: str, model: attnbias.Model, trained: Path, photos: list[str]) -> None:
    words = ("--classes", "digit_3,digit_1", "--map", kind, "--npz", "--out", "seen", "--device", "cpu")
    command("visualize", "csra", "--load-from", trained, *photos, *words, expect=0)
    with np.load("seen/maps.npz") as stored:
        drawn = stored["maps_0"].reshape(3, 2, *stored["maps_0"].shape[1:])
    every = model.attention(photos, ["digit_3", "digit_1"], map=kind)
    for number, maps in enumerate(every):
        assert maps.names == ("digit_3", "digit_1")
        assert np.array_equal(maps.to_numpy(), drawn[number])
        overlay = Image.open(f"seen/overlays/{number:04d}_photo{number}.digit_1.png")
        assert np.array_equal(np.asarray(maps.overlay("digit_1")), np.asarray(overlay))
    assert len(model.attention(photos[:1] * (BATCH + 1), "digit_3", map=kind)) == BATCH + 1
    alone = model.attention(photos[0], "digit_3", map=kind)
    assert alone.shape == (1, *drawn.shape[2:])
    assert alone._repr_png_().startswith(b"\x89PNG")
    assert np.allclose(np.asarray(alone), drawn[0, :1], atol=1e-5)
    assert {name for maps in every for name in model.attention(maps.image).names} <= {*model.classes}


def test_maps_are_saved_and_nothing_is_replaced_unasked(model: attnbias.Model, photos: list[str]) -> None:
    maps = model.attention(photos[0], ["digit_3", "digit_4"])
    maps.save("maps.npz")
    with np.load("maps.npz") as stored:
        assert np.array_equal(stored["maps"], maps.to_numpy())
    assert size_of(maps.save("sheet.png"))[0] > 2 * size_of(Path(photos[0]))[0]
    for path, words in (("sheet.png", "exists"), ("sheet.txt", "expected a name"), ("sheet", "expected a name")):
        with pytest.raises(attnbias.UsageError, match=words):
            maps.save(path)
    maps.save("sheet.png", overwrite=True)


def test_absvit_is_steered_by_a_class_or_by_any_vector(here: Path, photos: list[str]) -> None:
    model = attnbias.load(write_model(here / "a.safetensors", "absvit"), device="cpu")
    by_name = model.attention(photos[0], prior=["digit_2", "digit_7"])
    assert np.array_equal(by_name.to_numpy(), model.attention(photos[0], [2, 7], map="steered").to_numpy())
    rows = model.module.get_parameter("head.weight").detach()[[2, 7]]
    for vectors in (rows, rows.numpy(), 3 * rows):
        assert np.allclose(model.attention(photos[0], prior=vectors).to_numpy(), by_name.to_numpy(), atol=1e-5)
    alone, same, stronger = (model.attention(photos[0], prior="digit_2", gain=gain)[0] for gain in (None, 40, 1e6))
    assert np.array_equal(alone, same)
    assert np.abs(stronger - alone).max() > 0.1  # of a fresh network, whose second pass changes little
    for wrong in (rows[:, :-1], "digt_2", rows * np.nan):
        with pytest.raises(attnbias.UsageError):
            model.attention(photos[0], prior=wrong)
    with pytest.raises(attnbias.UsageError, match="leave of, map and head out"):
        model.attention(photos[0], "digit_2", prior="digit_2")


def test_a_gallery_shows_images_of_memory_as_files(model: attnbias.Model, photos: list[str]) -> None:
    files = attnbias.gallery([model, model], photos, ["digit_3"], out="seen")
    assert (files.images, files.overlays, files.out) == (3, 6, Path("seen"))
    assert Path("seen/gallery.html").read_text() == files.html
    opened = attnbias.gallery(model, [Image.open(photo) for photo in photos], "digit_3")
    maps = re.findall(r'"maps":(\{.*?\}\})', files.html)[::2]
    assert maps == re.findall(r'"maps":(\{.*?\}\})', opened.html)
    assert "srcdoc=" in opened._repr_html_()
    assert opened.save("page.html").read_text() == opened.html


# How right it is ------------------------------------------------------------------------------------------------------


def test_evaluate_gives_the_figures_of_val_to_the_digit(model: attnbias.Model, trained: Path, demo_root: Path) -> None:
    words = ("--split", "val,counter", "--bias", "--gpus", 0, "--data-root", demo_root, "--json", "-")
    expected = json.loads(command("val", "csra", "--load-from", trained, *words, expect=0).out)
    table = command("val", "csra", "--load-from", trained, *words[:-2], expect=0).out
    for given in (model, trained):
        report = attnbias.evaluate(given, split="val,counter", bias=True, **({} if given is model else {"gpus": 0}))
        assert json.loads(json.dumps(report.to_dict())) == expected
    one = report[1]
    assert (one.dataset, one.split, one.samples) == ("demo", "counter", 24)
    assert one.metrics["mAP"] == expected[1]["measures"]["mAP"]
    assert one.bias == expected[1]["bias"]["means"]
    assert one.figures["bias/energy"] == one.bias["energy"]
    energy, interval = one.bias["energy"], one.bias_intervals["energy"]
    assert energy is not None
    assert interval is not None
    assert interval[0] <= energy <= interval[1]
    assert [line.split() for line in str(report).splitlines()] == [line.split() for line in table.splitlines()]
    assert f'<td style="text-align:right">{one.metrics["mAP"]:.2f}</td>' in report._repr_html_()
    with pytest.raises(attnbias.UsageError, match="holds 2 evaluations"):
        _ = report.metrics


def test_two_loaded_models_of_one_file_are_two(model: attnbias.Model, trained: Path) -> None:
    other = attnbias.load(trained, device="cpu")
    for parameter in other.module.parameters():
        parameter.data.neg_()
    alone = [attnbias.evaluate(each).metrics["mAP"] for each in (model, other)]
    assert alone[0] != alone[1]
    assert [each.metrics["mAP"] for each in attnbias.evaluate([model, other])] == alone


@pytest.fixture(autouse=True)
def _data_of_the_demo(demo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBIAS_DATA", str(demo_root))


def test_a_run_is_trained_compared_and_evaluated_again(trained: Path, here: Path) -> None:
    run = attnbias.train("csra", "demo", lam=0.3, out="run", **SMALL)
    assert (run.steps, run.out, run.stopped_early) == (4, Path("run"), False)
    assert run.best == run.log[-1]["mAP"]
    assert "mAP" in run._repr_html_()
    assert attnbias.load(run, device="cpu").recipe.model_dump()["lam"] == 0.3
    with pytest.raises(attnbias.UsageError, match=r"run.*--overwrite"):
        attnbias.train("csra", "demo", out="run", **SMALL)
    report = attnbias.evaluate([run], store=True, gpus=0)
    found = attnbias.compare([run, trained])
    assert found.runs == ("run", str(trained))
    (line,) = [line for line in found.to_dict()["lines"] if line["measure"] == "mAP"]
    assert line["values"][0] == pytest.approx(report.metrics["mAP"], abs=5)  # by one rule for all, ties together
    assert "mAP after the last epoch" in str(found)
    assert "<table>" in found._repr_html_()


def test_precision_and_device_of_an_earlier_call_do_not_bind_a_later_one(
    model: attnbias.Model, photos: list[str]
) -> None:
    model.predict(photos[0])
    attnbias.train("csra", "demo", amp="bf16", out="half", steps=1, **SMALL)
    assert attnbias.evaluate(model).metrics["mAP"] == attnbias.evaluate(model).metrics["mAP"]


def test_a_thread_that_is_not_the_main_one_trains_as_well(here: Path) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            attnbias.train("csra", "demo", out="run", steps=1, **SMALL)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed
    assert attnbias.load("run", device="cpu").method == "csra"


@pytest.mark.slow
def test_several_processes_give_the_same_figures_and_the_same_errors(trained: Path, here: Path) -> None:
    run = attnbias.train("csra", "demo", out="run", processes=2, steps=2, **SMALL)
    assert run.steps == 2
    alone, both = (attnbias.evaluate(trained, gpus=0, processes=processes, bias=True) for processes in (1, 2))
    assert json.dumps(alone.to_dict()) == json.dumps(both.to_dict())  # which has tuples as lists
    with pytest.raises(attnbias.UsageError, match=r"run.*--overwrite"):
        attnbias.train("csra", "demo", out="run", processes=2, **SMALL)
    with pytest.raises(attnbias.DataError, match="'coco' is not prepared"):  # WeightsError has the same exit code
        attnbias.evaluate(trained, "coco", gpus=0, processes=2)


def test_a_dry_run_counts_and_writes_nothing(here: Path) -> None:
    planned = attnbias.train("csra", "demo", dry_run=True, **SMALL)
    assert (planned.images, planned.plan.total_steps) == (72, 4)
    assert not list(here.iterdir())


def test_weights_and_graphs_are_written_as_by_the_commands(
    model: attnbias.Model, trained: Path, photos: list[str]
) -> None:
    file = attnbias.convert_weights(trained, "w.safetensors")
    assert [fit.described.method.name for fit in attnbias.inspect_weights(file).fits] == ["csra"]
    assert np.array_equal(attnbias.load(file, device="cpu").predict(photos).scores, model.predict(photos).scores)
    graph = attnbias.export(model, "g.pt2", top_k=2, check=True, paths=photos)
    assert (graph.file, graph.map, bool(graph.parity)) == (Path("g.pt2"), "score", True)


# Lists, tables, errors ------------------------------------------------------------------------------------------------


def test_lists_are_rows_by_name(demo_root: Path) -> None:
    assert attnbias.list_datasets()["demo"].ready
    assert not attnbias.list_datasets(demo_root / "nowhere")["demo"].ready
    assert {row.method for row in attnbias.list_recipes("ida")} == {"ida"}
    assert attnbias.list_methods()["csra"].maps == ("score", "attention")
    assert all("lsas" in row.methods for row in attnbias.list_weights("lsas"))
    assert "<td" in attnbias.list_methods()._repr_html_()
    shown = attnbias.show_recipe("csra/demo")
    assert str(shown).split() == command("show", "csra/demo", expect=0).out.split()
    assert "<table>" in shown._repr_html_()
    with pytest.raises(attnbias.UsageError, match="hf://"):
        attnbias.push_weights("nowhere", "somewhere")
    assert attnbias.cite("csra") in command("cite", "csra", expect=0).out


def test_tables_of_pandas(
    model: attnbias.Model, trained: Path, photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    report = attnbias.evaluate(model, split="val,counter", bias=True)
    table = report.to_dataframe()
    assert list(table["split"]) == ["val", "counter"]
    assert table["mAP"][1] == report[1].metrics["mAP"]
    scores = model.predict(photos).to_dataframe()
    assert list(scores.columns) == ["path", *model.classes]
    assert isinstance(attnbias.list_recipes().to_dataframe(), pandas.DataFrame)
    assert {"split", "measure", "run", "value"} <= {*attnbias.compare([trained]).to_dataframe().columns}


def test_without_pandas_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(attnbias.UsageError, match="needs pandas; install it with: pip install pandas"):
        attnbias.list_methods().to_dataframe()


def test_errors_are_one_tree_with_the_exit_codes_of_the_commands() -> None:
    kinds = {"UsageError": 2, "DataError": 3, "WeightsError": 3, "RunError": 1}
    for name, code in kinds.items():
        kind = getattr(attnbias, name)
        assert issubclass(kind, attnbias.AttnbiasError)
        assert kind.exit_code == code
    assert attnbias.Stopped(15).exit_code == 143


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: attnbias.load("nowhere"), ("predict", "--load-from", "nowhere", "photo0.jpg")),
        (
            lambda: attnbias.train("csra", "demmo", recipe="demo", gpus=0),
            ("train", "csra", "--recipe", "demo", "--dataset", "demmo", "--gpus", 0),
        ),
        (lambda: attnbias.train("csra", "demo", epochs=0), ("train", "csra", "--dataset", "demo", "--epochs", 0)),
        (lambda: attnbias.train("cssra"), ("train", "cssra")),
        (lambda: attnbias.list_recipes("cssra"), ("list", "recipes", "cssra")),
        (lambda: attnbias.compare(["nowhere"]), ("compare", "nowhere")),
        (lambda: attnbias.prepare_data("demmo"), ("prepare-data", "demmo")),
        (lambda: attnbias.fetch_weights("resnet"), ("weights", "fetch", "resnet")),
    ],
)
def test_what_is_wrong_is_said_as_the_command_says_it(
    call: Callable[[], object], words: tuple[Any, ...], photos: list[str]
) -> None:
    with pytest.raises(attnbias.AttnbiasError) as raised:
        call()
    refused = command(*words, expect=raised.value.exit_code)
    assert refused.line == f"error: {raised.value}"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: attnbias.train("csra", "demo", lamm=0.5), "no option 'lamm' (did you mean 'lam'?)"),
        (lambda model: attnbias.train("csra", "demo", overwrit=True), "did you mean 'overwrite'?"),
        (lambda model: attnbias.load("x.pth", method="csra", lr=1), "only training reads it"),
        (lambda model: attnbias.evaluate(model, splitt="val"), "did you mean 'split'?"),
        (lambda model: attnbias.evaluate(model, lam=0.1), "give it to attnbias.load(..., lam=...)"),
        (lambda model: attnbias.evaluate(model, processes=2), "in this process"),
        (lambda model: attnbias.evaluate([]), "no model was given"),
        (lambda model: attnbias.gallery(model, oppacity=1), "did you mean 'opacity'?"),
        (lambda model: model.predict([]), "no image was given"),
        (lambda model: model.predict([3]), "image is of type int"),
        (lambda model: model.predict("nowhere.jpg"), "no file or folder nowhere.jpg"),
        (lambda model: model.predict(np.zeros((3, 8, 8))), "an array of shape (3, 8, 8); expected (H, W, 3)"),
        (lambda model: model.predict(np.zeros((8, 8, 3), np.int64)), "an array of int64; expected uint8"),
        (lambda model: model.predict(torch.full((3, 8, 8), -0.5)), "floats from -0.5 to -0.5; expected 0..1"),
        (lambda model: model.attention("photo0.jpg", "digt_3"), "did you mean 'digit_3'?"),
        (lambda model: model.attention("photo0.jpg", map="scor"), "did you mean 'score'?"),
        (lambda model: model.attention("photo0.jpg", prior="digit_1"), "is not steered by a prior"),
        (lambda model: model.attention("photo0.jpg", gain=3), "say which with prior="),
        (lambda model: attnbias.list_datasets()["cocoo"], "did you mean 'coco'?"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_that_mends_it(
    call: Callable[[attnbias.Model], object], words: str, model: attnbias.Model, photos: list[str]
) -> None:
    with pytest.raises(attnbias.UsageError) as raised:
        call(model)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
