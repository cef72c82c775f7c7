"""Arguments of the functions for Python arrive, and one that could do nothing is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import attnbias
from attnbias.methods.engine.load import class_numbers
from tests.helpers.small_model import write_model

SMALL: dict[str, Any] = {"recipe": "demo", "epochs": 1, "batch_size": 20, "image_size": 32, "gpus": 0, "threads": 1}


@pytest.fixture
def model(here: Path) -> Any:
    """A small CSRA with four heads and random weights; of any type, as it is also called with what it does not take."""
    return attnbias.load(write_model(here / "model.safetensors", num_heads=4), device="cpu")


@pytest.fixture
def photo(here: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (240, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(here / "photo.png")
    return here / "photo.png"


# Looking --------------------------------------------------------------------------------------------------------------


def test_a_head_and_a_rule_of_drawing_are_those_that_were_asked_for(model: Any, photo: Path) -> None:
    every = model.attention(photo, "digit_3", map="attention").to_numpy()
    heads = [model.attention(photo, "digit_3", map="attention", head=head).to_numpy() for head in range(4)]
    assert len({values.tobytes() for values in (every, *heads)}) > 2
    stretched, divided = (model.attention(photo, "digit_3", normalisation=rule) for rule in ("minmax", "max"))
    values = divided.to_numpy()
    assert np.array_equal(values, stretched.to_numpy())
    assert np.allclose(divided.normalised, values / values.max(), atol=1e-6)
    assert np.allclose(stretched.normalised, (values - values.min()) / (values.max() - values.min()), atol=1e-5)
    for wrong in ({"map": "attention", "head": 9}, {"normalisation": "maxx"}):
        with pytest.raises(attnbias.UsageError):
            model.attention(photo, "digit_3", **wrong)


def test_an_overlay_is_as_strong_as_asked_and_rings_the_focus_where_asked(model: Any, photo: Path) -> None:
    maps = model.attention(photo, "digit_3")
    assert maps.frame == pytest.approx((0, 0, 1, 1), abs=1e-6)
    plain, ringed = (np.asarray(maps.overlay(contour=contour)) for contour in (False, True))
    assert np.array_equal(np.asarray(maps.overlay(opacity=0)), np.asarray(Image.open(photo)))
    assert not np.array_equal(plain, np.asarray(maps.overlay(opacity=0.2)))
    changed = (plain != ringed).any(axis=2)
    assert changed.any()
    assert (ringed[changed] == 255).all()
    with pytest.raises(attnbias.UsageError, match="opacity 5: expected a number from 0 to 1"):
        maps.overlay(opacity=5)


def test_classes_are_named_or_numbered_also_by_numpy(model: Any, photo: Path) -> None:
    best = model.predict(photo).scores.argmax()
    (name,) = model.predict(photo).top(1)
    assert model.attention(photo, best).names == (name,)
    assert model.attention(photo, np.array([best, 3])).names == (name, "digit_3")
    assert model.attention(photo, [3, "digit_4"]).names == ("digit_3", "digit_4")
    for wrong in (10, -1, 1.5, "digt_3"):
        with pytest.raises(attnbias.UsageError, match="no class"):
            model.attention(photo, wrong)
    maps = model.attention(photo, ["digit_3", "digit_4"])
    assert np.array_equal(maps[np.int64(1)], maps["digit_4"])
    assert attnbias.gallery(model, photo, [3, np.int64(4)]).html == attnbias.gallery(model, photo, maps.names).html
    named_by_digits = ("7", "1", "0")
    assert class_numbers(["0", 0], named_by_digits) == [2, 0]  # a text is a name first, a number is one


def test_a_file_is_whole_or_not_there(model: Any, photo: Path, here: Path) -> None:
    maps = model.attention(photo, ["digit_3", "digit_4"])
    maps.save("new/folder/maps.npz")
    with np.load("new/folder/maps.npz") as stored:
        assert {*stored} == {"maps", "names", "kind", "frame"}
        assert str(stored["kind"]) == maps.kind
    before = {*here.rglob("*")}
    for ending in (".psd", ".h5", ".xbm", ".txt", ""):  # some are of images that Pillow does not write
        with pytest.raises(attnbias.UsageError, match="expected a name that ends in"):
            maps.save(f"seen{ending}")
    with pytest.raises(attnbias.DataError, match="is a folder"):
        attnbias.gallery(model, photo, "digit_3").save("new/folder", overwrite=True)
    assert {*here.rglob("*")} == before


# Loading, measuring ---------------------------------------------------------------------------------------------------


def test_raw_or_averaged_weights_are_loaded_as_asked(
    demo_root: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNBIAS_DATA", str(demo_root))
    run = attnbias.train("csra", "demo", ema_decay=0.5, out="run", **SMALL)
    (step,) = Path("run/checkpoints").glob("step-*")
    kinds: list[tuple[Literal["raw", "ema"], str]] = [("raw", "model"), ("ema", "ema")]
    for weights, file in kinds:
        loaded = attnbias.load(run, weights=weights, device="cpu").module.state_dict()
        stored = load_file(step / f"{file}.safetensors")
        assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    attnbias.evaluate([run], store=True, bias=True, gpus=0)
    assert not attnbias.compare(run).missing
    found = attnbias.compare([run], map="gradcam", out="tables")
    assert "no attention bias of map 'gradcam' is kept" in found.missing[0]
    assert {path.name for path in found.written} == {"comparison.md", "comparison.csv", "comparison.json"}
    assert all(path.is_file() for path in found.written)


def test_another_set_with_the_same_classes_is_measured(model: Any, here: Path) -> None:
    prepared = attnbias.prepare_data("demo", data_root="other", preset="even", train=20, eval=11, size=32)
    report = attnbias.evaluate(model, str(prepared.folder))
    assert report[0].samples == 11
    with pytest.raises(attnbias.DataError):  # of its own set, which is not prepared where sets stand
        attnbias.evaluate(model)
    here_is_one = attnbias.load(model.load_from, data_root="other", device="cpu")
    assert attnbias.evaluate(here_is_one)[0].samples == 11


def test_a_recipe_tells_what_a_published_file_does_not(here: Path) -> None:
    ours = attnbias.load(write_model(here / "ours.safetensors", backbone="resnet18", num_heads=2), device="cpu")
    torch.save(ours.module.state_dict(), "w.pth")
    told = attnbias.load("w.pth", method="csra", recipe="demo", device="cpu")
    assert told.recipe.model_dump() == ours.recipe.model_dump()


def test_a_graph_has_as_many_maps_as_asked_for(model: Any, here: Path) -> None:
    for file, asked in (("two.pt2", {"top_k": 2}), ("three.pt2", {"classes": ["digit_1", "digit_2", "digit_3"]})):
        graph = attnbias.export(model, file, **asked)
        side = graph.image_size
        _, maps, classes = torch.export.load(graph.file).module()(torch.zeros(4, 3, side, side))
        assert classes.shape == maps.shape[:2] == (4, 2 if "top_k" in asked else 3)


def test_a_model_has_every_kind_of_map_that_it_names(model: Any, photo: Path) -> None:
    assert {"score", "attention", "gradcam", "layercam", "hirescam", "rise"} <= {*model.maps}
    assert not {"legrad", "rollout"} & {*model.maps}  # of transformers
    for kind in model.maps:
        assert model.attention(photo, "digit_3", map=kind).kind == kind


def test_a_row_is_found_by_a_name_that_is_its_own_alone() -> None:
    assert attnbias.list_recipes("csra")["demo"].method == "csra"
    with pytest.raises(attnbias.UsageError, match="several rows are called 'demo'"):
        attnbias.list_recipes()["demo"]


# What could do nothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: attnbias.evaluate(model, weights="raw"), "give it to attnbias.load(..., weights=...)"),
        (lambda model: attnbias.evaluate(model, recipe="demo"), "give it to attnbias.load(..., recipe=...)"),
        (lambda model: attnbias.evaluate(model, method="ida"), "give it to attnbias.load(..., method=...)"),
        (lambda model: attnbias.evaluate(model, load_from="x"), "evaluate has no option 'load_from'"),
        (lambda model: attnbias.evaluate(model.load_from, flip=False, gpus=0), "--flip is of training"),
        (lambda model: attnbias.gallery(model, "photo.png", weights="ema"), "give it to attnbias.load("),
        (lambda model: attnbias.gallery(model, "photo.png", image_size=64), "give it to attnbias.load("),
        (lambda model: attnbias.gallery(model, "photo.png", classes=["digit_1"]), "gallery has no option 'classes'"),
        (lambda model: attnbias.gallery(model, "photo.png", device="cpu"), "gallery has no option 'device'"),
        (lambda model: attnbias.gallery(model, "photo.png", fields={"lam": 1}), "gallery has no option 'fields'"),
        (lambda model: attnbias.export(model, "g.pt2", weights="raw"), "give it to attnbias.load("),
        (lambda model: attnbias.load(model.load_from, overwrite=True), "load has no option 'overwrite'"),
        (lambda model: attnbias.load(model.load_from, recipe="demo"), "tells its own recipe; leave it out"),
        (lambda model: attnbias.compare([]), "no run was given"),
        (lambda model: attnbias.load(model.load_from, flip=False), "--flip is of training"),
        (lambda model: attnbias.convert_weights(model.load_from, "o.safetensors", load_from="x"), "no option 'load_"),
    ],
)
def test_an_argument_that_could_do_nothing_is_refused(
    call: Callable[[Any], object], words: str, model: Any, photo: Path, here: Path
) -> None:
    before = {*here.rglob("*")}
    with pytest.raises(attnbias.UsageError) as raised:
        call(model)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert {*here.rglob("*")} == before
