"""Arrays of .npz files, read by what is there: NumPy's own reader makes room for whatever a header claims."""

from __future__ import annotations

import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from attnbias.data.reading import BAD_ARCHIVE, Unfit

HEADERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}


def read_arrays(file: IO[bytes], largest: int) -> dict[str, NDArray[Any]]:
    """All arrays of a .npz file by name; `largest` is how many bytes they may have together.

    Raises:
        Unfit: it is damaged, holds anything but arrays of numbers and texts, or would unpack to more.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > largest:
                raise Unfit(f"it would unpack to more than {largest >> 20} MB")
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in archive.infolist()}
    except BAD_ARCHIVE:
        raise Unfit("it is not a .npz file of arrays") from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as file:
        try:
            shape, fortran, dtype = HEADERS[np.lib.format.read_magic(file)[0]](file)
            if dtype.kind not in "biufcU" or min(shape, default=0) < 0:
                raise Unfit(f"'{member.filename}' is not an array of numbers or texts")
            values = np.frombuffer(bytearray(file.read()), dtype)
            return values.reshape(shape, order="F" if fortran else "C")
        except Unfit:
            raise
        except (ValueError, KeyError, OverflowError):
            raise Unfit(f"'{member.filename}' is damaged, or is not an array") from None
