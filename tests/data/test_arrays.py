"""Arrays of a .npz file are read as NumPy reads them, and a header claims nothing that is not there."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from attnbias.data.arrays import read_arrays
from attnbias.data.reading import Unfit

ARRAYS = {
    "names": np.array(["a", "bé"]),
    "vectors": np.arange(6, dtype=np.float32).reshape(2, 3),
    "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "one": np.array(3.5),
    "none": np.zeros((0, 4), np.float32),
    "text": np.array('{"of": "objects"}'),
}


def archive(header: dict[str, object], numbers: bytes) -> bytes:
    """A .npz file of one array, by its header."""
    array, file = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, header)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("vectors.npy", array.getvalue() + numbers)
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_that_numpy_reads(save: Callable[..., None]) -> None:
    file = io.BytesIO()
    save(file, **ARRAYS)
    read = read_arrays(file, 1 << 20)
    file.seek(0)
    with np.load(file) as expected:
        assert set(read) == set(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(read[name], expected[name], strict=True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (archive({"descr": "<f4", "fortran_order": False, "shape": (10, 10**12)}, b""), "damaged"),
        (archive({"descr": "<f4", "fortran_order": False, "shape": (2, 3)}, b"\0" * 23), "damaged"),
        (archive({"descr": "<f4", "fortran_order": False, "shape": (2, 3)}, b"\0" * 28), "damaged"),
        (archive({"descr": "<f4", "fortran_order": False, "shape": (-1, 3)}, b"\0" * 24), "not an array"),
        (archive({"descr": "|O", "fortran_order": False, "shape": (1,)}, b"x"), "not an array of numbers or texts"),
        (archive({"descr": "<f4", "fortran_order": False, "shape": (1 << 19,)}, b"\0" * (1 << 21)), "more than 1 MB"),
        (b"PK\x03\x04", "not a .npz file"),
        (b"", "not a .npz file"),
    ],
)
def test_what_is_no_array_or_claims_too_much_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        read_arrays(io.BytesIO(content), 1 << 20)
