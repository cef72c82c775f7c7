"""`attnbias priors`, and the maps that its file steers: in visualize, val --bias, export and Python alike."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import load_file
from torch import Tensor

import attnbias as toolkit
from attnbias.data.index import Index
from attnbias.data.registry import open_split
from attnbias.methods.engine.load import weights_metadata
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import DIGITS, write_model

CPU = ("--gpus", 0)


class Foreign(Namespace):
    """What only a trusted checkpoint may hold."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AbSViT's, at random; not as small as fresh ones are, so that the second pass sees something."""
    file = write_model(tmp_path_factory.mktemp("absvit") / "model.safetensors", "absvit")
    loaded, draws = toolkit.load(file, device="cpu").loaded, torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=draws) * value.shape[-1] ** -0.5 if value.ndim >= 2 else value
        for name, value in load_file(file).items()
    }
    write_weights(file, state, weights_metadata(loaded.method, loaded.recipe, loaded.classes, loaded.task))
    return file


@pytest.fixture
def model(weights: Path, demo_root: Path) -> toolkit.Model:
    return toolkit.load(weights, device="cpu", data_root=demo_root)


@pytest.fixture
def photo(demo_root: Path) -> Path:
    return min((demo_root / "demo" / "images" / "val").iterdir())


@pytest.fixture
def rows(model: toolkit.Model, here: Path) -> Path:
    """The head's rows as a prior file, in another order than the classes'."""
    head = model.module.get_parameter("head.weight").detach().numpy()
    return toolkit.Priors(DIGITS[::-1], head[::-1].copy()).save("rows.npz")


def stored(path: Path | str) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {str(name): vector for name, vector in zip(file["names"], file["vectors"], strict=True)}


@torch.no_grad()
def tokens(model: toolkit.Model, index: Index) -> list[Tensor]:
    """The last tokens (8, 8, C) of the first pass over each image of a split."""
    network: Any = model.module
    images = [model.transform(Image.open(index.root / record.path).convert("RGB")) for record in index.records]
    return [
        network.encode(network.patch_embed(image[None]))[0, network.num_prefix_tokens :].unflatten(0, (8, 8))
        for image in images
    ]


def test_a_vector_is_the_mean_token_of_a_class_less_the_mean_over_classes(
    model: toolkit.Model, weights: Path, demo_root: Path, here: Path
) -> None:
    """Of images, and of objects by their masks, against loops over pycocotools' masks."""
    data = ("--data-root", demo_root, *CPU)
    attnbias("priors", weights, "--made-from", "images", "--split", "val", "--out", "images.npz", *data, expect=0)
    done = attnbias("priors", weights, "--split", "val", "--out", "objects.npz", *data, expect=0)
    assert "objects.npz: 10 objects of demo/val, vectors of 128 numbers" in done.out
    index = open_split("demo", "val", demo_root)
    assert index.annotations is not None
    truth, seen = COCO(str(index.annotations)), tokens(model, index)
    sums = {part: {name: [torch.zeros(128), 0.0] for name in DIGITS} for part in ("images", "objects")}
    for record, values in zip(index.records, seen, strict=True):
        labels = np.flatnonzero(np.array(record.target) == 1)
        planes = {int(label): np.zeros((64, 64), bool) for label in labels}
        for each in truth.loadAnns(truth.getAnnIds(imgIds=[record.image_id])):
            planes[DIGITS.index(truth.cats[each["category_id"]]["name"])] |= truth.annToMask(each).astype(bool)
        for label, plane in planes.items():
            shares = torch.from_numpy(plane.reshape(8, 8, 8, 8).mean((1, 3))).float()
            for part, cover in (("images", torch.ones(8, 8)), ("objects", shares)):
                entry = sums[part][DIGITS[label]]
                entry[0] = entry[0] + (values * cover[:, :, None]).sum((0, 1))
                entry[1] += float(cover.sum())
    for part, of_class in sums.items():
        means = torch.stack([total / weight for total, weight in of_class.values()])
        expected = (means - means.mean(0)).numpy()
        found = stored(f"{part}.npz")
        assert tuple(found) == DIGITS
        assert np.allclose(np.stack(list(found.values())), expected, atol=1e-5)


def test_a_file_of_the_heads_rows_draws_and_measures_as_the_classes_themselves(
    model: toolkit.Model, weights: Path, rows: Path, photo: Path, demo_root: Path
) -> None:
    """Vectors are found by their names, whatever their order, in every command; --gain is the strength."""
    look = ("visualize", "absvit", "--load-from", weights, photo, "--classes", "digit_3,digit_7", "--npz", *CPU)
    drawn = {}
    for name, more in {
        "own": (),
        "class": ("--prior", "class"),
        "file": ("--prior", rows),
        "strong": ("--prior", rows, "--gain", 400),
    }.items():
        attnbias(*look, *more, "--out", name, expect=0)
        with np.load(f"{name}/maps.npz") as file:
            drawn[name] = file["maps_0"]
    assert np.array_equal(drawn["class"], drawn["own"])
    assert np.allclose(drawn["file"], drawn["own"], atol=1e-3 * drawn["own"].max())
    assert not np.allclose(drawn["strong"], drawn["own"], atol=1e-2 * drawn["own"].max())
    assert "steered by rows.npz: 10 vectors, gain 40" in Path("file/gallery.html").read_text()
    given = model.attention(photo, prior=toolkit.Priors(*_read(rows))[["digit_3", "digit_7"]], gain=400)
    assert np.allclose(given.to_numpy(), drawn["strong"].reshape(given.shape), atol=1e-3 * drawn["strong"].max())
    assert model.attention(photo, prior="rows.npz").names == DIGITS[::-1]

    measure = ("val", "absvit", "--load-from", weights, "--bias", *CPU, "--data-root", demo_root)
    found = {
        name: json.loads(attnbias(*measure, *more, "--json", "-", expect=0).out)[0]["bias"]
        for name, more in {"own": (), "file": ("--prior", rows), "strong": ("--prior", rows, "--gain", 400)}.items()
    }
    assert found["file"]["means"]["energy"] == pytest.approx(found["own"]["means"]["energy"], rel=1e-4)
    assert found["strong"]["means"]["energy"] != pytest.approx(found["own"]["means"]["energy"], rel=1e-3)
    assert "steered_by" not in found["own"]
    assert found["strong"]["steered_by"] == "rows.npz: 10 vectors, gain 400"

    graph = ("export", "absvit", "--load-from", weights, "--format", "torch-export", "--classes", "digit_3,digit_7")
    told = ("--prior", rows, "--gain", 400, "--check", photo, "--out", "graph.pt2")
    attnbias(*graph, *told, expect=0)
    with torch.no_grad():
        image = model.transform(Image.open(photo))[None]
        _, maps, _ = torch.export.load("graph.pt2").module()(image)
    assert np.allclose(maps[0].numpy(), given.to_numpy(), atol=1e-3 * given.to_numpy().max())


def _read(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    found = stored(path)
    return tuple(found), np.stack(list(found.values()))


def test_vectors_of_other_weights_are_said_to_be(weights: Path, demo_root: Path, photo: Path, here: Path) -> None:
    other = write_model(here / "other.safetensors", "absvit", seed=1)
    attnbias("priors", weights, "--limit", 30, "--data-root", demo_root, *CPU, expect=0)
    for file, said in ((weights, False), (other, True)):
        look = ("visualize", "absvit", "--load-from", file, photo, "--prior", "priors.npz", "--out", file.stem)
        assert ("priors.npz: made with other weights" in attnbias(*look, *CPU, expect=0).err) == said


def test_what_was_typed_decides_whose_weights_are_read_and_what_is_replaced(
    weights: Path, demo_root: Path, here: Path
) -> None:
    state = load_file(weights)
    half = {name: value / 2 if name.startswith("blocks.0") else value for name, value in state.items()}
    torch.save({"model": state, "model_ema": half}, "both.pth")
    torch.save({"model": state, "args": Foreign()}, "foreign.pth")

    def made(file: str, *more: Any) -> np.ndarray:
        command = ("priors", file, "--limit", 40, "--data-root", demo_root, *CPU, "--method", "absvit", "--overwrite")
        attnbias(*command, *more, expect=0)
        return np.stack(list(stored("priors.npz").values()))

    demo = ("--recipe", "demo")
    raw = made("both.pth", *demo)
    assert np.array_equal(raw, made("both.pth", *demo, "--weights", "raw"))
    assert not np.allclose(raw, made("both.pth", *demo, "--weights", "ema"), atol=1e-4)
    assert not np.allclose(raw, made("both.pth", "--recipe", "scenes", "--image-size", 64), atol=1e-4)  # normalised so
    assert np.array_equal(raw, made("foreign.pth", *demo, "--trust-checkpoint"))
    assert attnbias("priors", "foreign.pth", "--method", "absvit", *demo, "--overwrite").code == 3
    assert "exists; choose another name or add --overwrite" in attnbias("priors", weights, expect=2).line
    assert "is not steered by a prior" in attnbias("priors", write_model(here / "c.safetensors"), "--out", "c.npz").line


def test_unreadable_images_stop_it_or_are_left_out_as_typed(weights: Path, here: Path) -> None:
    root = here / "data"
    attnbias("prepare-data", "demo", "--train", 20, "--eval", 4, "--root", root, expect=0)
    index = open_split("demo", "train", root)
    (index.root / index.records[0].path).write_bytes(b"")
    refused = attnbias("priors", weights, "--data-root", root, *CPU, expect=3)
    assert index.records[0].path in refused.line
    done = attnbias("priors", weights, "--data-root", root, *CPU, "--on-bad-image", "skip", expect=0)
    assert f"left out: image {index.root / index.records[0].path}" in done.err


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "missing": (lambda: None, "prior file p.npz is missing; make it with: attnbias priors"),
    "damaged": (lambda: Path("p.npz").write_bytes(b"PK\x03\x04 and more"), "p.npz is damaged"),
    "other arrays": (lambda: np.savez("p.npz", maps=np.ones(3)), "no arrays 'names' and 'vectors'"),
    "NaN": (lambda: np.savez("p.npz", names=np.array(DIGITS), vectors=np.full((10, 128), np.nan)), "NaN or infinity"),
    "width": (lambda: np.savez("p.npz", names=np.array(DIGITS), vectors=np.ones((10, 64))), "64 numbers; the tokens"),
    "a class": (lambda: np.savez("p.npz", names=np.array(DIGITS[1:]), vectors=np.ones((9, 128))), "class 'digit_0'"),
    "twice": (lambda: np.savez("p.npz", names=np.array(["a", "a"]), vectors=np.ones((2, 128))), "have one name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_cannot_steer_is_one_line(case: str, weights: Path, photo: Path, here: Path) -> None:
    make, words = WRONG[case]
    make()
    result = attnbias("visualize", "absvit", "--load-from", weights, photo, "--prior", "p.npz", *CPU)
    assert result.code in (2, 3)
    assert words in result.err.splitlines()[-1]
    assert not (here / "gallery").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("visualize absvit --load-from W PHOTO --prior text", "is asked by class; use class, or a file"),
        ("visualize absvit --load-from W PHOTO --prior rows.txt", "expected class, or a file that ends in .npz"),
        ("visualize absvit --load-from W PHOTO --gain 3 --map rollout", "--gain changes nothing for --map rollout"),
        ("visualize absvit --load-from W PHOTO --gain -3", "--gain"),
        ("val absvit --load-from W --gain 3", "--gain changes nothing without --bias"),
        ("visualize csra --load-from C PHOTO --prior class", "method 'csra' is not steered by a prior"),
        ("priors W --text dog", "is asked by class; leave it out"),
        ("priors W --text dog --split val", "--split changes nothing with --text"),
        ("priors W --out p.txt", "expected a name that ends in .npz"),
    ],
)
def test_what_cannot_steer_is_refused_in_one_line(
    words: str, said: str, weights: Path, photo: Path, here: Path
) -> None:
    own = {"W": weights, "PHOTO": photo, "C": write_model(here / "c.safetensors")}
    assert said in attnbias(*(own.get(word, word) for word in words.split()), *CPU, expect=2).line


def test_a_plain_vit_is_not_steered(photo: Path, here: Path) -> None:
    plain = write_model(here / "plain.safetensors", "absvit", top_down=False)
    for command in (("priors", plain), ("visualize", "absvit", "--load-from", plain, photo, "--gain", 3)):
        result = attnbias(*command, *CPU)
        assert "plain ViT" in result.line or "changes nothing for --map prompt" in result.line


def test_the_function_writes_what_the_command_writes(
    model: toolkit.Model, weights: Path, demo_root: Path, here: Path
) -> None:
    attnbias("priors", weights, "--limit", 40, "--data-root", demo_root, *CPU, expect=0)
    found = toolkit.priors(model, "ours.npz", limit=40)
    assert Path("ours.npz").read_bytes() == Path("priors.npz").read_bytes()
    assert np.array_equal(found["digit_3"].vectors[0], stored("priors.npz")["digit_3"])
    assert len(found) == len(found.names)
    with pytest.raises(toolkit.UsageError, match="did you mean 'digit_3'"):
        found["digt_3"]


def test_maps_under_a_prior_are_stored_and_held_against_those_of_an_equal_one_alone(
    demo_root: Path, here: Path
) -> None:
    """Priors are equal where they are of the same objects under one gain: each model has them in its own space."""
    common = ("--data-root", demo_root, *CPU, "--threads", 1)
    for seed, name in enumerate(("one", "two")):
        small = ("--recipe", "demo", "--steps", 1, "--batch-size", 4, "--image-size", 32, "--seed", seed)
        attnbias("train", "absvit", *small, "--out", name, *common, expect=0)
        attnbias("priors", name, "--limit", 20, "--out", f"{name}.npz", *common, expect=0)

    def stored(name: str, *more: Any) -> None:
        measure = ("val", "absvit", "--load-from", name, "--bias", "--store", "--overwrite")
        attnbias(*measure, *more, *common, expect=0)

    stored("one", "--prior", "one.npz")
    stored("two", "--prior", "two.npz", "--gain", 40)
    shown = attnbias("compare", "one", "two", "--out", "table", expect=0)
    lines = json.loads(Path("table/comparison.json").read_text())["lines"]
    assert next(line for line in lines if line["measure"] == "energy")["changes"][1] is not None
    assert "maps of one are steered by one.npz: 10 objects of demo/train, gain 40" in " ".join(shown.out.split())
    paged = attnbias("compare", "one", "two", "--page", "--out", "page", *common[:2], expect=2)
    assert "--page draws maps as models draw them by themselves, and one keeps those steered by one.npz" in paged.line

    for more, told in ((("--prior", "two.npz", "--gain", 3), "gain 3"), ((), "no --prior")):
        stored("two", *more)
        refused = attnbias("compare", "one", "two", expect=2).line
        assert "map 'steered' was steered by 10 objects of demo/train, gain 40 and" in refused
        assert told in refused
        assert "evaluate again with one --prior and --gain" in refused
