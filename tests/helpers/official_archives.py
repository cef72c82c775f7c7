"""Archives in the official layouts, made in memory and served from loopback in place of a dataset's own."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbias.data import prepare as preparing
from attnbias.data.fetch import download
from attnbias.data.prepare import Report, prepare
from attnbias.data.registry import DATASETS
from attnbias.data.sets.contract import PrepareOptions
from tests.helpers.archive_server import ArchiveServer

Offer = Callable[[str, dict[str, bytes]], None]


def jpeg(seed: int = 0, side: int = 8) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def tar(files: dict[str, bytes], mode: Any = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def pack_zip(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def offering(server: ArchiveServer, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Serve these files as a dataset's archives, with their true sizes and checksums in the registry."""
    monkeypatch.setattr(download, "BACKOFF", 0.001)

    def offer(name: str, files: dict[str, bytes]) -> None:
        server.files = files
        assert {archive.file for archive in DATASETS[name].archives} == set(files)
        archives = tuple(
            replace(
                archive,
                url=server.url + archive.file,
                size=len(files[archive.file]),
                algorithm="md5" if archive.digest else None,
                digest=hashlib.md5(files[archive.file]).hexdigest() if archive.digest else None,
            )
            for archive in DATASETS[name].archives
        )
        info = replace(DATASETS[name], archives=archives)
        monkeypatch.setattr(preparing, "DATASETS", {**DATASETS, name: info})

    return offer


def fetched(name: str, root: Path) -> Report:
    return prepare(name, root=root, options=PrepareOptions(download=True, verify=True))
