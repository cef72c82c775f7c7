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

TENCH, GOLDFISH, CRANE = "n01440764", "n01443537", "n02012849"


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


def pack_zip(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def devkit() -> bytes:
    """ILSVRC2012_devkit_t12 of three synsets and one group of them, its own numbers not in the order of the names."""
    from scipy.io import savemat

    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(1, CRANE, "crane", "bird", 0), (2, TENCH, "tench", "fish", 0), (3, GOLDFISH, "goldfish", "fish", 0)]
    rows += [(1001, "n00001740", "entity", "all", 3)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    folder = "ILSVRC2012_devkit_t12/data/"
    return tar(
        {folder + "meta.mat": meta.getvalue(), folder + "ILSVRC2012_validation_ground_truth.txt": b"3\n1\n2\n1\n"},
        "w:gz",
    )


def imagenet_archives() -> dict[str, bytes]:
    train = {f"{s}.tar": tar({f"{s}_{i}.JPEG": jpeg(i) for i in range(2)}) for s in (GOLDFISH, CRANE, TENCH)}
    val = {f"ILSVRC2012_val_0000000{i}.JPEG": jpeg(i) for i in (2, 1, 4, 3)}
    return {
        "ILSVRC2012_img_train.tar": tar(train),
        "ILSVRC2012_img_val.tar": tar(val),
        "ILSVRC2012_devkit_t12.tar.gz": devkit(),
    }


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
