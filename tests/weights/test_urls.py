"""Whatever a URL says and a server answers: a file in its own folder of the cache, or one line and nothing at all."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from safetensors.torch import save

from attnbias.data.errors import DataError
from attnbias.data.fetch import download
from attnbias.data.info import Archive
from attnbias.methods.engine import published
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.published import fetch_published, locate, shown
from attnbias.methods.engine.training.setup import environment
from attnbias.weights.errors import WeightsError
from attnbias.weights.manifest import Published
from tests.helpers.archive_server import ArchiveServer, serving
from tests.helpers.command_line import attnbias

CONTENT = bytes(range(256)) * 40
SECRET = "tok3n"


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(cache_root: Path) -> Path:
    return cache_root


def fetched(server: ArchiveServer, path: str) -> Path:
    server.files[path.partition("#")[0]] = CONTENT  # a fragment is not sent
    return locate(server.url + path)


def everything(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_folder_in_the_place_of_a_file_is_left_alone(server: ArchiveServer, cache: Path) -> None:
    path = fetched(server, "m/w.pth")
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"w\.pth is a folder, expected a file"):
        fetched(server, "m/w.pth")


@pytest.mark.parametrize("lead", ["..%2F..%2F..%2F", "%2e%2e%2f", "%2Ftmp%2F", "a%2Fb%2F", "x/../"])
def test_a_name_with_separators_stays_in_the_folder_of_its_url(server: ArchiveServer, cache: Path, lead: str) -> None:
    path = fetched(server, f"m/{lead}w.pth")
    assert path.name == "w.pth"
    assert path.parent.parent == cache / "weights"
    assert {found.parent for found in everything(cache.parent)} == {path.parent}


def test_an_absolute_name_is_not_written_where_it_says(server: ArchiveServer, cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "site" / "evil.pth"
    target.parent.mkdir()
    assert fetched(server, "m/" + quote(str(target), safe="")).parent.parent == cache / "weights"
    assert not everything(target.parent)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "%2e%2e",
            "%2e",
            ".lock",
            ".turn",
            ".w.pth.validator",
            "manifest.json",
            "Manifest.JSON",
            "a%00.pth",
            "a%0A.pth",
        ),
        *("%1b%5b31m.pth", "..%5C..%5Cw.pth", "a%5Cw.pth", "a" * 201, "%C3%A9" * 101),
    ],
)
def test_a_name_that_is_none_for_a_weight_file_is_refused(server: ArchiveServer, cache: Path, name: str) -> None:
    with pytest.raises(UsageError, match="ends in no name for a weight file") as raised:
        fetched(server, "m/" + name)
    assert str(raised.value).isprintable()
    assert not server.requests
    assert not cache.exists()


def test_names_of_200_bytes_and_none_at_all_are_taken(server: ArchiveServer) -> None:
    assert fetched(server, "a" * 196 + ".pth").stat().st_size == len(CONTENT)
    assert fetched(server, "%C3%A9" * 98 + ".pth").name == "é" * 98 + ".pth"
    assert fetched(server, "").name == "weights"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://",
            "https://",
            "http:///x",
            "http://[::1",
            "http://[zz]/x",
            "http://127.0.0.1:99999/x",
            "http://h:abc/x",
        ),
        *("http://\x00/x", "http://exa mple/x", "http://h/a b", "http://h/\x1b[31m", "http://h/é", "HTTP://[::1/w.pth"),
    ],
)
def test_what_is_no_url_is_one_line(url: str, cache: Path) -> None:
    with pytest.raises(UsageError, match="is not an URL") as raised:
        locate(url)
    assert str(raised.value).isprintable()
    assert not cache.exists()


@pytest.mark.parametrize("source", ["ftp://h/w.pth", "file:///etc/passwd", "w" * 300, "a\0b", "data:,x"])
def test_other_addresses_and_names_that_no_disk_holds_are_no_checkpoint(source: str) -> None:
    with pytest.raises(WeightsError, match=r"(no|not a) checkpoint"):
        locate(source)


@pytest.mark.parametrize(
    "source",
    [
        *("hf://a/b/../../../etc/passwd", "hf://../b/w.pth", "hf://a/b/./w", "hf://a/b/c\n"),
        *("hf://a/b@main/w.pth", "hf://a\\b/c/w.pth", "hf://a/-b/w.pth", "hf://a/b--c..d/w.pth", "hf://a/" + "b" * 99),
    ],
)
def test_a_name_of_the_hub_stays_in_its_repository(source: str) -> None:
    with pytest.raises(UsageError, match="expected hf://"):
        locate(source)


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1:1/x", "data:,x", "/w.pth", "http://[::1", "//h:x/"]
)
def test_redirects_lead_to_the_web_alone(server: ArchiveServer, cache: Path, to: str) -> None:
    server.redirects["/w.pth"] = to + ("" if to == "/w.pth" else f"?token={SECRET}")
    with pytest.raises(DataError, match=r"w\.pth (redirects|is, or redirects)") as raised:
        locate(server.url + "w.pth")
    assert SECRET not in str(raised.value)
    assert not everything(cache)


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "9" * 5000])
def test_a_length_that_is_no_size_is_refused(server: ArchiveServer, cache: Path, length: str) -> None:
    server.content_length = length
    with pytest.raises(DataError, match=r"no size|answers|got more than"):
        fetched(server, "w.pth")
    assert not everything(cache)
    assert not list((cache / "weights").glob("*"))


@pytest.mark.parametrize("fault", ["missing", "web page", "wrong digest"])
def test_a_refused_download_leaves_nothing(server: ArchiveServer, tmp_path: Path, fault: str, cache: Path) -> None:
    if fault != "missing":
        server.files["w.pth"] = CONTENT
    server.content_type = "text/html" if fault == "web page" else server.content_type
    known = Published("w", server.url + "w.pth", "w.pth", ("csra",), "none")
    with pytest.raises(DataError):
        fetch_published(replace(known, algorithm="sha256", digest="0" * 8) if fault == "wrong digest" else known)
    assert not everything(cache)
    assert not (cache / "weights" / "w").exists()


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


REFUSED = {
    "empty.pth": b"",
    "damaged.pth": CONTENT,
    "cut.pth": saved({"w": torch.zeros(1000)})[:2000],
    "no-weights.pth": saved({"epoch": 3}),
    "code.pth": saved({"w": torch.zeros(2), "run": Archive}),
    "damaged.safetensors": CONTENT,
    "said.safetensors": save({"w": torch.zeros(2)}, {"attnbias": "{"}),
    "damaged.npz": CONTENT,
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", ["predict", "inspect", "val", "train"])
def test_what_is_fetched_and_cannot_be_read_leaves_nothing(
    command: str, name: str, server: ArchiveServer, cache: Path, demo_root: Path, tmp_path: Path
) -> None:
    server.files[name] = REFUSED[name]
    url, images = server.url + name, demo_root / "demo" / "images" / "val"
    words: dict[str, list[Any]] = {
        "predict": ["predict", "--load-from", url, images, "--method", "csra", "--gpus", 0],
        "inspect": ["weights", "inspect", url, "--method", "csra"],
        "val": ["val", "csra", "--load-from", url, "--data-root", demo_root, "--gpus", 0],
        "train": ["train", "csra", "--recipe", "demo", "--load-from", url, "--data-root", demo_root, "--gpus", 0],
    }
    more = ["--out", tmp_path / "run"] if command == "train" else []
    refused = attnbias(*words[command], *more, expect=3)
    assert refused.err.splitlines()[-1].endswith("; the download was deleted")
    assert not everything(cache)
    assert not (cache / "weights").exists()
    before = len(server.requests)
    attnbias(*words[command], *more, expect=3)
    assert len(server.requests) > before, "the same command asks the server again"


def test_what_is_refused_for_another_reason_or_was_there_before_stays(server: ArchiveServer, cache: Path) -> None:
    server.files["w.pth"] = saved({"state_dict": {"w": torch.zeros(2)}})
    attnbias("weights", "inspect", server.url + "w.pth", "--method", "csra", expect=3)  # of another model
    attnbias("weights", "convert", server.url + "w.pth", "--to", cache.parent / "o.safetensors", "--weights", "ema")
    (path,) = (found for found in everything(cache) if found.suffix == ".pth")
    mine = cache.parent / "mine.pth"
    mine.write_bytes(CONTENT)
    attnbias("weights", "inspect", mine, expect=3)
    assert mine.read_bytes() == CONTENT
    assert locate(server.url + "w.pth") == path


def test_a_part_of_a_broken_transfer_is_kept_for_the_next_try(server: ArchiveServer, cache: Path) -> None:
    server.ranges, server.break_after = False, [1000]
    with pytest.raises(DataError, match="run the same command to continue"):
        fetched(server, "w.pth")
    assert any(path.name == "w.pth.part" for path in everything(cache))
    server.ranges, server.break_after = True, [None]
    assert fetched(server, "w.pth").read_bytes() == CONTENT


def test_a_part_that_is_a_link_is_not_written_through(server: ArchiveServer, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    path = fetched(server, "w.pth")
    path.unlink()
    path.with_name("w.pth.part").symlink_to(victim)
    (path.parent / "manifest.json").unlink()
    assert locate(server.url + "w.pth").read_bytes() == CONTENT
    assert victim.read_text() == "precious"


def test_what_can_be_a_secret_is_neither_said_nor_kept(
    server: ArchiveServer, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level("DEBUG"):
        path = fetched(server, f"w.pth?token={SECRET}#{SECRET}")
    assert f"w.pth?... into {path.parent}" in caplog.text
    said = [caplog.text, *map(str, everything(cache)), *(p.read_text(errors="replace") for p in everything(cache))]
    for way in (f"gone.pth?X-Amz-Signature={SECRET}", f"%2e?token={SECRET}", f"w.pth?{SECRET} x"):
        with pytest.raises((DataError, UsageError)) as raised:
            locate(server.url + way)
        said.append(str(raised.value))
    monkeypatch.setenv("ATTNBIAS_OFFLINE", "1")
    with pytest.raises(WeightsError) as raised:
        locate(server.url + f"other.pth?token={SECRET}")
    said.append(str(raised.value))
    assert not [words for words in said if SECRET in words]
    assert shown(f"https://me:{SECRET}@host/w.pth?a={SECRET}") == "https://host/w.pth?..."
    assert shown(f"http://[::1/w?{SECRET}") == "http://[::1/w"
    assert shown(f"http://me:{SECRET}@[::1/w") == "http://[::1/w"
    assert shown("runs/a?b") == "runs/a?b"


def test_a_run_does_not_keep_the_secrets_of_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"https://me:{SECRET}@host/w.pth?token={SECRET}"
    monkeypatch.setattr(sys, "argv", ["attnbias", "train", "csra", "--load-from", url, f"--backbone-weights={url}"])
    command = environment()["command"]
    assert command[-2:] == ["https://host/w.pth?...", "--backbone-weights=https://host/w.pth?..."]
    assert command[:4] == sys.argv[:4]


def test_a_recipe_keeps_no_secret_of_where_its_weights_lie(tmp_path: Path) -> None:
    url = f"https://me:{SECRET}@host/w.pth?token={SECRET}"
    (tmp_path / "mine.yaml").write_text(f"init: {url}\n")
    for way in (["--recipe", tmp_path / "mine.yaml"], ["--init", url], ["--init", url, "--backbone", "tiny"]):
        said = attnbias("train", "csra", *way, "--dry-run", expect=2)
        assert SECRET not in said.out + said.err
        assert "'https://host/w.pth?...' may hold a secret" in said.line


@pytest.mark.parametrize(
    "content",
    ["[]", "5", "null", "[" * 100_000, '{"w.pth": 5}', '{"w.pth": []}', '{"w.pth": {"bytes": "1", "digest": 5}}', ""],
)
def test_notes_of_the_cache_that_are_damaged_are_named(server: ArchiveServer, content: str) -> None:
    notes = fetched(server, "w.pth").with_name("manifest.json")
    notes.write_text(content)
    published._verified.clear()  # as in a new process
    with pytest.raises(DataError, match=r"manifest\.json is damaged \(.*delete it"):
        locate(server.url + "w.pth")
    notes.unlink()
    assert locate(server.url + "w.pth").read_bytes() == CONTENT


def test_a_mark_that_no_server_gives_is_not_sent(server: ArchiveServer) -> None:
    path = fetched(server, "w.pth")
    path.rename(path.with_name("w.pth.part"))
    path.with_name(".w.pth.validator").write_bytes(b"\xff\n\r")
    assert locate(server.url + "w.pth").read_bytes() == CONTENT


def test_a_cache_that_no_folder_can_be_made_in_is_named(server: ArchiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBIAS_CACHE", "/proc")  # whoever asks: no such folder, and none can be made
    with pytest.raises(WeightsError, match="cannot write into /proc/weights"):
        fetched(server, "w.pth")


def test_every_download_is_of_a_plain_name(server: ArchiveServer, tmp_path: Path) -> None:
    server.files["w.pth"] = CONTENT
    for name in ("../w.pth", str(tmp_path / "w.pth"), "", ".lock", "manifest.json"):
        with pytest.raises(DataError, match="is not a name for a file"):
            download.fetch([Archive(server.url + "w.pth", name)], tmp_path / "folder")
    assert not everything(tmp_path)
