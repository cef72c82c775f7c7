"""Downloads end whole and verified, or say why not; what is half there never bears its own name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attnbias.data.errors import DataError
from attnbias.data.fetch import download
from attnbias.data.fetch.download import fetch, readable_size
from attnbias.data.info import Archive
from tests.helpers.archive_server import ArchiveServer, serving

CONTENT = bytes(range(256)) * 4000 + b"end"  # a little more than a megabyte


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serving() as server:
        server.files["set.tar"] = CONTENT
        yield server


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF", 0.001)


def archive(server: ArchiveServer, *, size: bool = True, digest: bool = True, name: str = "set.tar") -> Archive:
    content = server.files[name]
    published = ("md5", hashlib.md5(content).hexdigest()) if digest else (None, None)
    return Archive(server.url + name, name, len(content) if size else None, *published)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock", "manifest.json"}


@pytest.mark.parametrize("size", [True, False])
@pytest.mark.parametrize("digest", [True, False])
def test_fetched_whole_and_not_again(server: ArchiveServer, tmp_path: Path, size: bool, digest: bool) -> None:
    wanted = archive(server, size=size, digest=digest)
    assert fetch([wanted], tmp_path) == [tmp_path / "set.tar"]
    assert (tmp_path / "set.tar").read_bytes() == CONTENT
    assert files(tmp_path) == {"set.tar"}
    fetch([wanted], tmp_path)
    assert server.requests == [("/set.tar", None)]


def test_dropped_connections_are_continued_from_where_they_broke(server: ArchiveServer, tmp_path: Path) -> None:
    server.break_after = [300_000, 300_000, 300_000, None]
    fetch([archive(server)], tmp_path)
    assert (tmp_path / "set.tar").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, *(f"bytes={n}00000-" for n in (3, 6, 9))]


def test_a_stopped_run_is_continued_by_the_next(server: ArchiveServer, tmp_path: Path) -> None:
    server.hold.clear()
    code = (
        "from pathlib import Path\nfrom attnbias.data.fetch.download import fetch\n"
        "from attnbias.data.info import Archive\n"
        f"fetch([Archive({server.url + 'set.tar'!r}, 'set.tar', {len(CONTENT)})], Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    part = tmp_path / "set.tar.part"
    deadline = time.monotonic() + 60
    while not (part.is_file() and part.stat().st_size >= len(CONTENT) // 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(DataError, match="another process"):
        fetch([archive(server)], tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert files(tmp_path) == {"set.tar.part", ".set.tar.validator"}
    server.hold.set()
    fetch([archive(server, digest=False)], tmp_path)
    assert (tmp_path / "set.tar").read_bytes() == CONTENT
    assert server.requests[-1] == ("/set.tar", f"bytes={len(CONTENT) // 2}-")


def test_a_server_without_range_starts_over(server: ArchiveServer, tmp_path: Path) -> None:
    server.ranges, server.break_after = False, [500_000, None]
    fetch([archive(server)], tmp_path)
    assert (tmp_path / "set.tar").read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_file_that_changed_meanwhile_is_not_glued_to_the_old_part(server: ArchiveServer, tmp_path: Path) -> None:
    (tmp_path / "set.tar.part").write_bytes(b"old version" * 1000)
    (tmp_path / ".set.tar.validator").write_text('"0"')
    fetch([archive(server, size=False, digest=False)], tmp_path)
    assert (tmp_path / "set.tar").read_bytes() == CONTENT


def test_a_part_without_mark_is_not_continued_where_no_checksum_would_tell(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.tag = None
    (tmp_path / "set.tar.part").write_bytes(b"old version" * 1000)
    fetch([archive(server, digest=False)], tmp_path)
    assert (tmp_path / "set.tar").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [True, False])
def test_a_part_that_is_whole_already(server: ArchiveServer, tmp_path: Path, size: bool) -> None:
    (tmp_path / "set.tar.part").write_bytes(CONTENT)
    fetch([archive(server, size=size)], tmp_path)
    assert (tmp_path / "set.tar").read_bytes() == CONTENT
    assert len(server.requests) == (0 if size else 1)


def test_a_part_that_is_too_long_is_started_over(server: ArchiveServer, tmp_path: Path) -> None:
    (tmp_path / "set.tar.part").write_bytes(CONTENT + b"more")
    fetch([archive(server)], tmp_path)
    assert (tmp_path / "set.tar").read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_is_given_up(server: ArchiveServer, tmp_path: Path) -> None:
    server.ranges, server.break_after = False, [500_000]
    with pytest.raises(DataError, match=r"broke at 500,000 of .*run the same command to continue"):
        fetch([archive(server)], tmp_path)
    assert "set.tar" not in files(tmp_path)


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server: ArchiveServer, tmp_path: Path) -> None:
    server.failures = 3
    fetch([archive(server)], tmp_path)
    server.requests.clear()
    with pytest.raises(DataError, match="answers 404"):
        fetch([Archive(server.url + "other.tar", "other.tar")], tmp_path)
    assert len(server.requests) == 1


def test_a_wrong_checksum_leaves_nothing(server: ArchiveServer, tmp_path: Path) -> None:
    wanted = archive(server)
    server.files["set.tar"] = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match=r"md5:.*expected md5:.*\(published\); it was deleted"):
        fetch([wanted], tmp_path)
    assert not files(tmp_path) & {"set.tar", "set.tar.part"}


def test_a_wrong_size_is_refused_before_the_transfer(server: ArchiveServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"offers 1,024,003 bytes, expected 5"):
        fetch([Archive(server.url + "set.tar", "set.tar", 5)], tmp_path)
    assert "set.tar" not in files(tmp_path)


def test_the_first_use_is_recorded_and_compared_later(server: ArchiveServer, tmp_path: Path) -> None:
    wanted = archive(server, size=False, digest=False)
    fetch([wanted], tmp_path)
    recorded = json.loads((tmp_path / "manifest.json").read_text())["set.tar"]
    assert recorded["digest"] == "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / "set.tar").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DataError, match="at first use"):
        fetch([wanted], tmp_path, offline=True)


def test_offline_verifies_every_byte_and_fetches_nothing(server: ArchiveServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no set\.tar from http.*without --offline"):
        fetch([archive(server)], tmp_path, offline=True)
    path = tmp_path / "set.tar"
    path.write_bytes(CONTENT)
    assert fetch([archive(server)], tmp_path, offline=True) == [path]
    changed, time_ns = CONTENT[:-1] + b"!", path.stat().st_mtime_ns
    path.write_bytes(changed)
    os.utime(path, ns=(time_ns, time_ns))  # not even the same size and time deceive it
    with pytest.raises(DataError, match="published"):
        fetch([archive(server)], tmp_path, offline=True)
    assert server.requests == []


def test_a_file_that_was_touched_is_verified_again(
    server: ArchiveServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Untouched it is believed: archives of gigabytes are not read before every command."""
    wanted = archive(server)
    (path,) = fetch([wanted], tmp_path)
    caplog.clear()
    with caplog.at_level("INFO"):
        assert fetch([wanted], tmp_path) == [path]
    assert not caplog.records
    verified = path.stat().st_mtime_ns
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(verified, verified))  # size and time are what they were
    with pytest.raises(DataError, match=r"expected md5:.*\(published\); delete it and fetch it again"):
        fetch([wanted], tmp_path)


def test_a_web_page_is_no_archive(server: ArchiveServer, tmp_path: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="web page"):
        fetch([archive(server, size=False, digest=False)], tmp_path)


def test_room_is_checked_before_the_first_byte(server: ArchiveServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has room for .*, the archives need 1e\+09 GB more"):
        fetch([Archive(server.url + "set.tar", "set.tar", 10**18)], tmp_path)
    assert server.requests == []


def test_a_full_disk_is_named_and_the_part_is_continued(server: ArchiveServer, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # the kernel refuses more, as a full disk does
    try:
        with pytest.raises(DataError, match=r"full at 200 kB of set\.tar; make room"):
            fetch([archive(server)], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "set.tar" not in files(tmp_path)
    fetch([archive(server)], tmp_path)
    assert (tmp_path / "set.tar").read_bytes() == CONTENT
    assert server.requests[-1] == ("/set.tar", "bytes=200000-")


def test_a_file_is_told_where_it_begins_and_where_it_is_done(
    server: ArchiveServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "set.tar.part").write_bytes(CONTENT[:1000])
    with caplog.at_level("INFO", logger="attnbias.data"):
        fetch([archive(server)], tmp_path)
    begun, done = (record.getMessage() for record in caplog.records)
    assert begun == f"fetching set.tar ({readable_size(len(CONTENT))}), 1 kB are here"
    assert re.fullmatch(rf"fetched set\.tar \({readable_size(len(CONTENT))} in \d+ s, verified\)", done)


def test_several_at_once_and_one_that_fails(server: ArchiveServer, tmp_path: Path) -> None:
    server.files |= {f"{i}.tar": CONTENT[i:] for i in range(5)}
    wanted = [archive(server, name=f"{i}.tar") for i in range(5)]
    fetch([*wanted[:2], *wanted[3:]], tmp_path)
    assert files(tmp_path) == {"0.tar", "1.tar", "3.tar", "4.tar"}
    with pytest.raises(DataError, match=r"gone\.tar answers 404"):
        fetch([*wanted, Archive(server.url + "gone.tar", "gone.tar")], tmp_path)
    fetch(wanted, tmp_path)
    assert all((tmp_path / f"{i}.tar").read_bytes() == CONTENT[i:] for i in range(5))


def test_proxies_of_the_environment_are_used(
    server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["http://elsewhere.invalid/set.tar"] = CONTENT
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    fetch([Archive("http://elsewhere.invalid/set.tar", "set.tar", len(CONTENT))], tmp_path)
    assert (tmp_path / "set.tar").read_bytes() == CONTENT
