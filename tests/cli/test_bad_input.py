"""Input that is damaged, absurd or hostile: one clear line each, or what is documented; never a traceback."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbias.data.errors import DataError
from attnbias.data.images import read_image
from attnbias.data.index import Index
from attnbias.data.sets.coco import read_coco
from attnbias.methods import METHODS
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.recipe import Recipe, read_recipe, write_recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.stored import stored_method
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import load_strict, read_checkpoint
from tests.helpers.good_files import GOOD, KINDS, annotations, check_index, colours, encoded, network, written

# Images -------------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of 300 bytes that says it has 20,000 x 20,000 pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(999)))]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


BAD: dict[str, tuple[bytes | None, str]] = {
    "truncated": (encoded(colours(), "PNG")[:-60], "cannot be read"),
    "truncated JPEG": (encoded(colours(), "JPEG")[:-60], "cannot be read"),
    "empty": (b"", "cannot be read"),
    "bomb": (bomb(), "exceeds limit"),
    "text": (b"<html>404</html>", "cannot be read (cannot identify it as an image)"),
    "program": (b"\x7fELF" + bytes(400), "cannot be read"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "cannot be read"),
    "vanished": (None, "is missing; run: attnbias prepare-data"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_of_image_comes_as_stored_in_three_colours(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"  # the name does not decide
    path.write_bytes(GOOD[kind])
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (24, 16))
    low, high = np.asarray(image).min(), np.asarray(image).max()
    assert low < 60
    assert high > 160


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_is_named_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    content, words = BAD[kind]
    if content is not None:
        path.write_bytes(content)
    assert words in refusal(DataError, read_image, path)


def test_a_folder_in_place_of_a_image(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(DataError, read_image, tmp_path)


def refusal(kind: type[Exception], read: Callable[[Path], Any], path: Path) -> str:
    """The one line with which a reader refuses a file, which it names."""
    with pytest.raises(kind) as raised:
        read(path)
    said = str(raised.value)
    assert "\n" not in said
    assert str(path) in said
    return said


# Annotations ----------------------------------------------------------------------------------------------------------


def test_empty_boxes_count_for_the_labels_alone(tmp_path: Path) -> None:
    index = read_annotations(annotations(), tmp_path)
    assert [(record.image_id, record.target) for record in index.records] == [(1, (1, 1)), (2, (0, 0)), (3, (0, 1))]
    assert [len(record.boxes) for record in index.records] == [1, 0, 0]


def read_annotations(content: Any, folder: Path) -> Index:
    path = folder / "instances_train2017.json"
    path.write_text(json.dumps(content))
    return read_coco(path, folder)


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("annotations", 0, "bbox"), [0, math.nan, 1, 1], "a box of image 1 is [0, nan, 1, 1]"),
        (("annotations", 0, "bbox"), [0, 1e308, 1e308, 1], "a box of image 1 is"),
        (("annotations", 0, "bbox"), [0, 0, 1], "is not a COCO instances file"),
        (("annotations", 0, "bbox"), ["a", "b", "c", "d"], "is not a COCO instances file"),
        (("annotations", 0, "bbox"), 5, "is not a COCO instances file"),
        (("annotations", 0, "category_id"), 99, "names category 99, which is not listed"),
        (("annotations", 0, "category_id"), [7], "is not a COCO instances file"),
        (("annotations", 0, "image_id"), 99, "annotations name 1 images that it does not list (99)"),
        (("annotations", 0, "image_id"), "1", "annotations name 1 images that it does not list ('1')"),
        (("annotations", 0), "text", "is not a COCO instances file"),
        (("annotations",), None, "is not a COCO instances file"),
        (("images", 0, "id"), 1, "lists images of the same id: 1"),
        (("images", 0, "id"), None, "is not a COCO instances file"),
        (("images", 0, "file_name"), 5, "is not a COCO instances file"),
        (("images", 0), {"file_name": "x.jpg"}, "entry 0 of 'images' has no 'id'"),
        (("categories", 0, "id"), 4, "lists categories of the same id: 4"),
        (("categories", 0), {"id": 7}, "entry 0 of 'categories' has no 'name'"),
        ((), [], "is not a COCO instances file"),
        ((), "text", "is not a COCO instances file"),
    ],
)
def test_annotations_that_make_no_sense(where: tuple[Any, ...], value: Any, words: str, tmp_path: Path) -> None:
    whole = {"whole": annotations()}
    *way, last = ("whole", *where)
    place: Any = whole
    for step in way:
        place = place[step]
    place[last] = value
    assert words in refusal(DataError, lambda _: read_annotations(whole["whole"], tmp_path), tmp_path)


def test_annotations_nested_without_end(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    assert "is not a JSON" in refusal(DataError, lambda file: read_coco(file, tmp_path), path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=5,
)


def places(content: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [way, *(place for key, value in inside for place in places(value, (*way, key)))]


def changed_at(content: Any, way: tuple[Any, ...], value: Any) -> Any:
    if not way:
        return value
    content = copy.copy(content)
    content[way[0]] = changed_at(content[way[0]], way[1:], value)
    return content


@settings(max_examples=300, deadline=None)
@given(way=st.sampled_from(places(annotations())), value=JSON)
def test_any_value_anywhere_in_annotations_is_read_or_refused(
    way: tuple[Any, ...], value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        check_index(read_annotations(changed_at(annotations(), way, value), folder))
    except DataError as error:
        said = str(error)
    else:
        return
    assert "\n" not in said


# Recipes --------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_value_of_any_field_is_taken_or_refused_by_name(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    method = get_method(data.draw(st.sampled_from(sorted(METHODS))))
    field = data.draw(st.sampled_from(sorted(method.recipe_type.model_fields)))
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_text(yaml.safe_dump({field: data.draw(JSON)}))
    read_or_refused(path, method.recipe_type, method.name, field)


def read_or_refused(path: Path, kind: type[Recipe], method: str, field: str = "") -> None:
    try:
        recipe = read_recipe(path, kind, method)
    except UsageError as error:
        said = str(error)
    else:
        numbers = [value for value in recipe.model_dump().values() if isinstance(value, float)]
        assert all(map(math.isfinite, numbers)), field
        return
    assert str(path) in said
    assert "\n" not in said
    assert len(said) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "lr: 2001-99-99",  # a date for YAML
        "lr: " + "[" * 5000,
        "lr: &a [1, *a]",  # holds itself
        "lr: !!python/object/apply:os.system [true]",
        "? [1, 2]\n: 3",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\ne: &e [*d, *d]\nlr: [*e, *e, *e, *e]",
        "lr: " + "9" * 5000,
        "lr: .nan",
        "lr: 0b",
        "\x00",
        "method: &a [x, x]\nlr: *a",
        "method: &a csra",
        "lr: 0.1\nlr: 0.2",
        "<<: {lr: 0.1}",
        "lr: 0.1\n---\nlr: 0.2",
        "lr: !!float 1",
        "lr: {a: 1}",
        "temperatures: [[1]]",
        "epochs: true",
        "epochs: '3'",
        "epochs: 2.5",
        "lr: true",
        "lr: '0.1'",
        "flip: 1",
        "flip: yes",
        'dataset: "a\\0b"',
        'dataset: "\\ud800"',
        "dataset: 3",
        "dataset: null",
        "image_size: 1000000",
        "method: [csra]",
        "\tlr: 0.1",
        "# " + "x" * (1 << 19),
    ],
)
def test_hostile_recipe_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    kind = get_method("csra").recipe_type
    refusal(UsageError, lambda file: read_recipe(file, kind, "csra"), path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), (".5", 0.5), ("1.", 1.0), ("+1", 1), ("010", 10), ("0.001 # a comment", 1e-3)],
)
def test_numbers_of_recipe_files_are_read_as_they_are_written(text: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"lr: {text}")
    assert read_recipe(path, get_method("csra").recipe_type, "csra").model_dump()["lr"] == value


@pytest.mark.parametrize("name", ["no", "1e-3", "null", "1:30", "2001-01-01", "true", "~", "a: b", "- a", "#a", "é"])
def test_a_name_that_looks_like_another_value_is_stored_as_a_name(name: str, tmp_path: Path) -> None:
    path, kind = tmp_path / "recipe.yaml", get_method("csra").recipe_type
    write_recipe(path, kind(dataset=name), "csra")
    assert read_recipe(path, kind, "csra").dataset == name


# Checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_weights_cut_at_every_hundredth_are_refused(kind: str, tmp_path: Path) -> None:
    content = written(kind, tmp_path).read_bytes()
    cut = tmp_path / f"cut{Path(kind).suffix}"
    for share in range(100):
        cut.write_bytes(content[: len(content) * share // 100])
        refusal(WeightsError, read_checkpoint, cut)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {**state, "2.weight": state["2.weight"].T}, "1 misshapen: 2.weight (file 8x5, model 5x8)"),
        (lambda state: {**state, "2.bias": state["1.bias"]}, "1 misshapen: 2.bias (file 8, model 5)"),
        (lambda state: {**state, "more": torch.zeros(1)}, "1 unexpected: more"),
        (lambda state: {**state, "a\nb\x1b[31m": torch.zeros(1)}, "1 unexpected: a?b?[31m"),
        (lambda state: {n: v for n, v in state.items() if n != "0.bias"}, "1 missing: 0.bias"),
        (
            lambda state: {**state, "2.bias": state["2.bias"].to(torch.complex64)},
            "'2.bias' is a complex tensor, expected plain numbers",
        ),
        (lambda state: {**state, "1.num_batches_tracked": torch.tensor(1.5)}, "(file float32, model int64)"),
        (
            lambda state: {**state, "2.bias": state["2.bias"].to_sparse()},
            "'2.bias' is a sparse tensor, expected plain numbers",
        ),
    ],
)
def test_weights_that_do_not_fit_change_nothing(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str, tmp_path: Path
) -> None:
    path, model = tmp_path / "w.pth", network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(change({name: value + 1 for name, value in before.items()}), path)
    said = refusal(WeightsError, lambda file: load_strict(model, read_checkpoint(file).state, file), path)
    assert words in said
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    path, model = tmp_path / "w.pth", network()
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in network().state_dict().items()}
    torch.save(state, path)
    load_strict(model, read_checkpoint(path).state, path)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert torch.equal(model.state_dict()["2.bias"], state["2.bias"].float())


class Runs:
    """Unpickling this makes a file."""

    def __init__(self, mark: Path, call: Callable[..., Any]) -> None:
        self.mark, self.call = mark, call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, (f"open({str(self.mark)!r}, 'w')",)


def holds_itself() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    return loop


def deep() -> dict[str, Any]:
    content: dict[str, Any] = {"w": 1}
    for _ in range(400):
        content = {"model": content}
    return content


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "exec": lambda mark: pickle.dumps(Runs(mark, exec), protocol=2),
    "eval in a state dict": lambda mark: saved({"state_dict": {"w": torch.zeros(1)}, "x": Runs(mark, eval)}),
    "holds itself": lambda mark: saved(holds_itself()),
    "deep": lambda mark: saved(deep()),
    "opcode of an extension": lambda mark: b"\x80\x02\x82\x01.",
    "endless memo": lambda mark: b"\x80\x02" + b"]q\x00h\x00" * 10_000 + b".",
    "a tensor of 2**60 numbers": lambda mark: saved_with_size(2**60),
}


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def saved_with_size(numbers: int) -> bytes:
    """A file of the old format whose storage says that it is larger than any memory."""
    file = io.BytesIO()
    torch.save({"w": torch.zeros(7777)}, file, _use_new_zipfile_serialization=False)
    whole = file.getvalue()
    assert whole.count(b"M" + struct.pack("<H", 7777)) >= 1
    return whole.replace(b"M" + struct.pack("<H", 7777), b"\x8a\x08" + struct.pack("<q", numbers))


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_weights_are_refused_and_run_nothing(kind: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "w.pth", tmp_path / "it-ran"
    path.write_bytes(HOSTILE[kind](mark))
    refusal(WeightsError, read_checkpoint, path)
    assert stored_method(path) is None
    assert not mark.exists()
