"""What tests of datasets share: a server, and archives that it offers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.archive_server import ArchiveServer, serving
from tests.helpers.listed import PLACES
from tests.helpers.official_archives import Offer, jpeg, offering, tar


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serving() as server:
        yield server


@pytest.fixture
def offer(server: ArchiveServer, monkeypatch: pytest.MonkeyPatch) -> Offer:
    return offering(server, monkeypatch)


@pytest.fixture
def places(offer: Offer, server: ArchiveServer) -> ArchiveServer:
    """Places365 with images of some size, so that there is something to interrupt."""
    noise = {f"val_256/Places365_val_0000000{i}.jpg": jpeg(i, 200) for i in (1, 2)}
    train = {f"data_256/{name}/00000001.jpg": jpeg(1, 200) for name in ("a/airfield", "b/beach")}
    offer(
        "places365",
        {
            "filelist_places365-standard.tar": tar(PLACES),
            "train_256_places365standard.tar": tar(train),
            "val_256.tar": tar(noise),
        },
    )
    return server
