"""What tests of weights share: a cache of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attnbias.data.fetch import download


@pytest.fixture
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, quick retries, no proxy, and no library for Google Drive."""
    monkeypatch.setitem(sys.modules, "gdown", None)
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setenv("ATTNBIAS_CACHE", str(tmp_path / "cache"))
    for name in ("ATTNBIAS_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"
