"""A small weight file never takes gigabytes, whatever it claims; what is refused is one line."""

from __future__ import annotations

import io
import pickle
import resource
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.registry import get_method
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import read_checkpoint
from tests.helpers.forked import FORKS

HUGE = 3_000_000_000


class Call:
    """Pickled as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def scalar_type(code: str) -> Any:
    constructor: Any = np.float64(0).__reduce__()[0]
    return {"w": torch.ones(2), "best": Call(constructor, np.dtype(code))}


def with_pickle(path: Path, data: bytes) -> None:
    """A torch archive of one tensor, with another pickle inside."""
    whole = io.BytesIO()
    torch.save({"w": torch.ones(2)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))


def packed(path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(60_000_000)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def nested(path: Path) -> None:
    content: dict[str, Any] = {}
    for _ in range(40):  # every level holds the next under four names: 4^40 ways down
        content = dict.fromkeys(("model", "state_dict", "model_state", "net"), content)
    torch.save(content, path)


def legacy(path: Path) -> None:
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"K\x03Nt", b"J\xff\xff\xff\x7fNt"))  # the storage's count of numbers


def array(path: Path, header: str, packing: int = zipfile.ZIP_STORED, content: bytes = b"\0" * 8) -> None:
    with zipfile.ZipFile(path, "w", packing) as archive:
        text = header.encode() + b"\n"
        archive.writestr("cls.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content)


def header(descr: str, shape: str = "()") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


def written_out(times: int) -> Any:
    """Bytes as hexadecimal text, and that again: each time twice as many."""
    import _codecs

    content: Any = "a" * 1000
    for encoding in ("latin1", *["hex"] * times):
        content = Call(_codecs.encode, content, encoding)
    return content


def shared(levels: int) -> tuple[Any, ...]:
    """A tuple that holds another one twice, which does the same, and so on."""
    return (last := shared(levels - 1), last) if levels else (1,)


def distributed(path: Path, table: bytes) -> None:
    path.mkdir()
    (path / ".metadata").write_bytes(table)


FILES: dict[str, Callable[[Path], None]] = {
    "void.pth": lambda path: torch.save(scalar_type(f"V{HUGE // 2}"), path),
    "text.pth": lambda path: torch.save(scalar_type("U500000000"), path),
    "bytearray.pth": lambda path: with_pickle(path, pickle.dumps(Call(bytearray, HUGE), protocol=2)),
    "old-bytearray.pth": lambda path: path.write_bytes(pickle.dumps(Call(bytearray, HUGE), protocol=2)),
    "hexadecimal.pth": lambda path: with_pickle(path, pickle.dumps({"w": written_out(22)}, protocol=2)),
    "key.pth": lambda path: with_pickle(path, pickle.dumps(Call(set, [shared(60)]), protocol=2)),
    "place.distcp": lambda path: distributed(path, b"\x80\x02K\x01r\x00\x00\x00\x20."),
    "key.distcp": lambda path: distributed(path, pickle.dumps(Call(OrderedDict, [(shared(60), 1)]), protocol=2)),
    "strides.pth": lambda path: torch.save({"w": torch.ones(1).expand(HUGE)}, path),
    "empty-side.pth": lambda path: torch.save({"w": torch.ones(0).reshape(HUGE, 0)}, path),
    "packed.pth": packed,
    "nested.pth": nested,
    "legacy.pth": legacy,
    "void.npz": lambda path: array(path, header("|V2000000000")),
    "text.npz": lambda path: array(path, header("<U500000000")),
    "shape.npz": lambda path: array(path, header("<f4", f"({HUGE},)")),
    "packed.npz": lambda path: array(path, header("<f4", "(60000000,)"), zipfile.ZIP_DEFLATED, b"\0" * 240_000_000),
}


def read(path: Path, said: Path) -> None:
    """Write why a file is refused, and the megabytes that it took to find out; in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as refused:
        read_checkpoint(path)
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    said.write_text(f"{refused.value}\n{megabytes}\n")


@pytest.mark.parametrize("name", FILES)
def test_a_small_file_takes_no_gigabytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    FILES[name](path)
    assert path.stat().st_size < 400_000
    reader = FORKS.Process(target=read, args=(path, tmp_path / "said"))
    reader.start()
    reader.join(60)
    reader.kill()
    assert reader.exitcode == 0
    line, megabytes = (tmp_path / "said").read_text().splitlines()
    assert str(path) in line
    assert int(megabytes) < 100


def test_a_shape_that_only_claims_is_refused_before_a_model_is_made(tmp_path: Path) -> None:
    method = get_method("csra")
    recipe = method.recipes["demo"].recipe
    with torch.device("meta"):
        model = method.build_model(recipe, 10, "multilabel")
    state = {name: torch.zeros(()).expand(value.shape) for name, value in model.state_dict().items()}
    classes = 250_000_000
    torch.save({**state, "classifier.weight": torch.zeros(1, 1).expand(classes, 1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"does not fit the model|is not a checkpoint of|is refused"):
        load_run("csra", str(tmp_path / "w.pth"), {})


def test_memory_that_no_file_fills_is_refused(tmp_path: Path) -> None:
    with_pickle(tmp_path / "w.pth", pickle.dumps(Call(torch.UntypedStorage, HUGE), protocol=2))
    with pytest.raises(WeightsError, match="memory that is filled from no file"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:torch.quantize")
@pytest.mark.parametrize("kind", ["sparse", "quantised", "complex"])
def test_a_weight_that_is_not_plain_numbers_is_refused(kind: str, tmp_path: Path) -> None:
    """A model would take the half of a complex number, without a word."""
    made = {
        "sparse": lambda: torch.eye(4).to_sparse(),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        "complex": lambda: torch.ones(4, dtype=torch.complex64),
    }
    torch.save({"fine": torch.ones(2), "w": made[kind]()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"its 'w' is a {kind} tensor, expected plain numbers"):
        read_checkpoint(tmp_path / "w.pth")


def test_numbers_of_numpy_beside_weights_are_read_as_they_are(tmp_path: Path) -> None:
    values = {"a": np.float64(81.5), "b": np.float32(0.5), "c": np.int64(-3), "d": np.bool_(True), "e": np.uint8(200)}
    values |= {"f": np.float16(1.5), "g": np.dtype(">f8").type(2.25)}
    torch.save({"state_dict": {"w": torch.ones(2)}, **values, "deep": [[1], [2]]}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").extra == {name: value.item() for name, value in values.items()}


def test_packed_arrays_of_real_numbers_are_read(tmp_path: Path) -> None:
    cls = np.random.default_rng(0).random((1, 1, 64), np.float32)
    np.savez_compressed(tmp_path / "w.npz", cls=cls, **{"params/x": np.asfortranarray(cls[0, 0].reshape(8, 8))})
    state = read_checkpoint(tmp_path / "w.npz").state
    assert torch.equal(state["cls_token"], torch.from_numpy(cls))
    assert torch.equal(state["params/x"], torch.from_numpy(cls.reshape(8, 8)))
