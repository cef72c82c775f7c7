"""Published weights by name, URL or hub file: fetched once, whole and verified, or a line that says what to do."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attnbias.data.errors import DataError
from attnbias.data.fetch import download
from attnbias.methods import METHODS
from attnbias.methods.engine import load, published, screen
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import load_run, weights_metadata
from attnbias.methods.engine.published import fetch_published, locate
from attnbias.methods.engine.registry import get_method
from attnbias.weights.cache import cache_folder, offline
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import write_weights
from attnbias.weights.manifest import PUBLISHED, Published
from tests.helpers.archive_server import ArchiveServer, serving
from tests.helpers.command_line import attnbias

CONTENT = bytes(range(256)) * 2000
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serving() as server:
        server.files["w.pth"] = CONTENT
        yield server


@pytest.fixture(autouse=True)
def cache(cache_root: Path) -> Path:
    return cache_root / "weights"


def entry(server: ArchiveServer, digest: str | None = SHA[:8], **info: object) -> Published:
    algorithm = "sha256" if digest else None
    values = {"name": "w", "url": server.url + "w.pth", "file": "w.pth", "methods": ("csra",), "licence": "none"}
    return Published(**{**values, "algorithm": algorithm, "digest": digest, **info})  # type: ignore[arg-type]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*")} - {".lock", ".turn", "manifest.json"}


# Fetching -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [SHA[:8], SHA, None], ids=["first eight digits", "whole", "none"])
def test_fetched_once_into_the_cache(server: ArchiveServer, cache: Path, digest: str | None) -> None:
    for _ in range(2):
        path = fetch_published(entry(server, digest))
        assert path == cache / "w" / "w.pth"
        assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert names(cache / "w") == {"w.pth"}


def test_beginning_of_an_md5(server: ArchiveServer) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()
    assert fetch_published(entry(server, md5[:6], algorithm="md5")).is_file()
    with pytest.raises(DataError, match="md5:"):
        fetch_published(entry(server, "000000", algorithm="md5", name="other"))


def test_a_broken_transfer_is_continued(server: ArchiveServer, cache: Path) -> None:
    server.break_after = [200_000, 200_000, None]
    assert fetch_published(entry(server)).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=200000-", "bytes=400000-"]


def test_a_wrong_checksum_leaves_nothing(server: ArchiveServer, cache: Path) -> None:
    with pytest.raises(DataError, match=rf"sha256:{SHA}, expected sha256:00000000 \(published\); it was deleted"):
        fetch_published(entry(server, "00000000"))
    assert not names(cache / "w") & {"w.pth", "w.pth.part"}


def test_a_redirect_is_followed(server: ArchiveServer) -> None:
    server.redirects["/shared/static/abc"] = server.url + "w.pth"
    assert fetch_published(entry(server, url=server.url + "shared/static/abc")).read_bytes() == CONTENT


def test_a_missing_link_is_named_and_not_asked_again(server: ArchiveServer, cache: Path) -> None:
    with pytest.raises(DataError, match=r"/gone\.pth answers 404"):
        fetch_published(entry(server, url=server.url + "gone.pth"))
    assert len(server.requests) == 1
    assert not names(cache / "w") & {"w.pth", "w.pth.part"}


def test_a_form_is_no_weight_file(server: ArchiveServer) -> None:
    server.content_type = "text/html"
    with pytest.raises(DataError, match="web page"):
        fetch_published(entry(server, None))


def test_processes_that_name_one_file_fetch_it_once(server: ArchiveServer) -> None:
    server.hold.clear()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(locate, server.url + "w.pth") for _ in range(3)]
        deadline = time.monotonic() + 20
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        server.hold.set()
        (path,) = {future.result() for future in asked}
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1


# By hand, offline -----------------------------------------------------------------------------------------------------


def test_what_only_a_browser_gets_is_named_with_its_link_and_place(server: ArchiveServer, cache: Path) -> None:
    form = entry(server, None, url="https://drive.google.com/file/d/x/view", browser=True)
    location = cache / "w" / "w.pth"
    with pytest.raises(WeightsError, match=rf"download https://drive\S+ and put w.pth \(size unknown\) at {location}"):
        fetch_published(form)
    location.parent.mkdir(parents=True)
    location.write_bytes(CONTENT)
    assert fetch_published(form) == location
    assert server.requests == []


def test_a_file_put_there_by_hand_is_verified(server: ArchiveServer, cache: Path) -> None:
    (cache / "w").mkdir(parents=True)
    (cache / "w" / "w.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="expected sha256"):
        fetch_published(entry(server))


def test_a_cached_file_is_verified_by_every_command_that_uses_it(server: ArchiveServer, cache: Path) -> None:
    """A byte that a disk or a person changed, with size and time as before, is not passed on as published weights."""
    for known, digest in (("published", SHA[:8]), ("recorded in manifest.json at first use", None)):
        path = fetch_published(entry(server, digest, name=known[:9]))
        before = path.stat()
        path.write_bytes(CONTENT[:1000] + b"!" + CONTENT[1001:])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        published._verified.clear()  # as in a new process
        with pytest.raises(DataError, match=rf"w\.pth has sha256:.*expected.*\({known}\); delete it"):
            fetch_published(entry(server, digest, name=known[:9]))


def test_a_cache_that_may_only_be_read_is_verified_too(
    server: ArchiveServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch_published(entry(server, None))
    kept = {file: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # root, as which tests may run, is refused nothing
    published._verified.clear()
    assert fetch_published(entry(server, None)) == path
    assert {file: file.stat().st_mtime_ns for file in path.parent.iterdir()} == kept
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DataError, match=r"recorded in manifest\.json at first use"):
        fetch_published(entry(server, None))


def test_offline_takes_what_is_there_and_fetches_nothing(
    server: ArchiveServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNBIAS_OFFLINE", "1")
    with pytest.raises(WeightsError, match=rf"offline, and {cache}/w/w\.pth is not there; put http\S+w\.pth there"):
        fetch_published(entry(server))
    assert server.requests == []
    monkeypatch.setenv("ATTNBIAS_OFFLINE", "0")
    fetch_published(entry(server))
    monkeypatch.setenv("ATTNBIAS_OFFLINE", "1")
    assert fetch_published(entry(server)).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_the_option_of_the_command_line_is_the_same(server: ArchiveServer, tmp_path: Path) -> None:
    done = attnbias("--offline", "weights", "inspect", server.url + "w.pth", expect=3)
    assert "offline, and" in done.line
    assert server.requests == []
    assert not offline()  # the test's own environment is as it was


def test_it_may_also_stand_behind_the_command(server: ArchiveServer, cache: Path) -> None:
    for words in (
        ("weights", "inspect", server.url + "w.pth", "--offline"),
        ("weights", "--offline", "inspect", server.url + "w.pth"),
        ("val", "csra", "--load-from", server.url + "w.pth", "--offline"),
    ):
        assert "offline, and" in attnbias(*words, expect=3).line
    assert server.requests == []
    assert "Traceback" in attnbias("weights", "inspect", "nothing.pth", "--debug", expect=3).err


def test_a_server_that_is_not_there_is_not_asked_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A refused connection and a name that cannot be resolved: at once, with the place and the way without a server."""
    monkeypatch.setattr(download, "BACKOFF", 1000.0)
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        for url in (nobody, "http://nobody.invalid/"):
            known = entry(SimpleNamespace(url=url), megabytes=12.3)  # type: ignore[arg-type]
            with pytest.raises(DataError, match="cannot be reached") as raised:
                fetch_published(known)
            assert f"put w.pth (12 MB) at {cache / 'w' / 'w.pth'} (with --offline no server is asked)" in str(
                raised.value
            )
        probe = "import sys\nfrom attnbias.methods.engine.published import locate\nprint(locate(sys.argv[1]))"
        hub = {"HF_ENDPOINT": nobody.rstrip("/"), "HF_HOME": str(tmp_path / "hub")}
        command = [sys.executable, "-c", probe, "hf://me/models/part/w.safetensors"]
        began = time.monotonic()
        done = subprocess.run(command, env={**os.environ, **hub}, capture_output=True, text=True)
        assert time.monotonic() - began < 20  # most of it to import; the hub's own client tries for 23 s
    assert "cannot be had: [Errno 111] Connection refused; put w.safetensors" in done.stderr
    assert "Retrying" not in done.stderr


GDOWN = """
from pathlib import Path
def download(url=None, output=None, quiet=False, *, id=None, resume=False, **more):
    content, begun = Path(__file__).with_name(id), Path(output + "x1y2.part")
    if not content.is_file():
        raise RuntimeError("Cannot retrieve the public link of the file.\\nYou may need ...")
    have = begun.read_bytes() if resume and begun.is_file() else b""
    file = have + content.read_bytes()[len(have):]
    if Path(__file__).with_name("breaks off").exists():
        begun.write_bytes(file[:len(file) // 2])
        raise KeyboardInterrupt
    Path(output).write_bytes(file)
    begun.unlink(missing_ok=True)
    return output
"""
"""As gdown does: it begins under a name of its own, from which it continues where it is asked to."""


class Drive:
    """A stand-in of the library, and what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "gdown.py").write_text(GDOWN)

    def entry(self, digest: str | None = None) -> Published:
        """A file of the drive, with its checksum where that is published."""
        known = entry(SimpleNamespace(url="https://drive.google.com/"), digest, browser=True)  # type: ignore[arg-type]
        return replace(known, url="https://drive.google.com/file/d/abc/view")

    def give(self, content: bytes) -> None:
        """Answer with this from now on."""
        (self.folder / "abc").write_bytes(content)


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    monkeypatch.delitem(sys.modules, "gdown", raising=False)
    (tmp_path / "library").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "library")
    yield Drive(tmp_path / "library")
    sys.modules.pop("gdown", None)


def test_the_library_for_google_drive_fetches_where_it_is_installed(cache: Path, drive: Drive) -> None:
    known = drive.entry()
    with pytest.raises(
        WeightsError, match=r"cannot be had: Cannot retrieve.*file\.; download https://drive\S+ and put"
    ):
        fetch_published(known)
    assert not names(cache / "w")
    drive.give(CONTENT)
    assert fetch_published(known).read_bytes() == CONTENT
    (drive.folder / "abc").unlink()
    assert fetch_published(known) == cache / "w" / "w.pth"


def test_a_page_or_another_file_than_was_published_does_not_stay_in_the_drives_place(cache: Path, drive: Drive) -> None:
    """Google Drive answers with a page where a file was asked for too often."""
    for content, digest, words in (
        (b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>", None, "gave a web page in its place"),
        (CONTENT[:-1], SHA[:8], r"has sha256:\w+, expected sha256:\w+ \(published\); it was deleted"),
    ):
        drive.give(content)
        with pytest.raises(WeightsError, match=rf"cannot be had: .*{words}.*; download https://drive\S+ and put w.pth"):
            fetch_published(drive.entry(digest))
        assert not names(cache / "w")
    drive.give(CONTENT)
    assert fetch_published(drive.entry(SHA[:8])).read_bytes() == CONTENT


def test_what_the_drive_gave_before_it_was_interrupted_is_continued(cache: Path, drive: Drive) -> None:
    drive.give(CONTENT)
    (drive.folder / "breaks off").touch()
    with pytest.raises(KeyboardInterrupt):
        fetch_published(drive.entry())
    assert names(cache / "w") == {"w.pth.partx1y2.part"}
    (drive.folder / "breaks off").unlink()
    half = len(CONTENT) // 2
    drive.give(b"?" * half + CONTENT[half:])  # the first half comes from what is there
    assert fetch_published(drive.entry()).read_bytes() == CONTENT
    assert names(cache / "w") == {"w.pth"}


def test_a_file_of_the_hub_may_be_put_into_the_cache_by_hand(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBIAS_OFFLINE", "1")
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    with pytest.raises(WeightsError, match=r"put model\.safetensors \(23 MB\) at") as raised:
        fetch_published(PUBLISHED[name])
    place = cache / name / "model.safetensors"
    assert str(place) in str(raised.value)
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert fetch_published(PUBLISHED[name]) == place


def test_places_of_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATTNBIAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "xdg" / "attnbias" / "weights"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "attnbias" / "weights"


# Names ----------------------------------------------------------------------------------------------------------------


def test_names_nearly_right_and_paths_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"no checkpoint resnet101-v3 \(did you mean 'resnet101-v\d'\?\)"):
        locate("resnet101-v3")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet101-v1").write_bytes(b"mine")
    assert locate("resnet101-v1") == Path("resnet101-v1")
    line = attnbias("weights", "fetch", "resnet101-v9", expect=2).line
    assert "did you mean 'resnet101-v" in line
    assert "attnbias list weights" in line


def test_a_name_of_another_method_or_of_a_backbone_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a checkpoint of 'csra', not of 'ida'"):
        load_run("ida", "csra-coco-resnet101", {})
    with pytest.raises(UsageError, match="is a backbone, no whole model; use: attnbias train csra --backbone-weights"):
        load_run("csra", "resnet101-v1", {})
    with pytest.raises(WeightsError, match=r"csra-coco-vitl does not load: .* heads head1 to head8 with biases"):
        load_run("csra", "csra-coco-vitl", {})


def test_a_published_name_brings_its_recipe(
    server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = get_method("csra")
    recipe = method.recipes["wider-vitb"].recipe
    model = method.build_model(recipe.model_copy(update={"backbone": "resnet18"}), 14, "multilabel")
    heads = {
        f"classifier.multi_head.{k}.head.weight": row[..., None, None] for k, row in enumerate(model.classifier.weight)
    }
    state = {n.removeprefix("backbone."): v for n, v in model.state_dict().items() if n != "classifier.weight"} | heads
    torch.save(state, tmp_path / "w.pth")
    server.files["w.pth"] = (tmp_path / "w.pth").read_bytes()
    table = {"mine": entry(server, None, name="mine", recipe="wider-vitb")}
    monkeypatch.setattr(published, "PUBLISHED", table)
    monkeypatch.setattr(load, "PUBLISHED", table)
    loaded = load_run("csra", "mine", {})
    of_another_network = {"backbone": "resnet18", "init": "none"}  # what the recipe would start from is a ViT's
    assert loaded.recipe == recipe.model_copy(update=of_another_network)
    assert load.owners("mine") == ["csra"]


def test_training_starts_from_a_url(server: ArchiveServer, tmp_path: Path, demo_root: Path) -> None:
    path = tmp_path / "start.safetensors"
    method = get_method("csra")
    recipe = method.recipes["demo"].recipe
    model = method.build_model(recipe, 10, "multilabel")
    write_weights(path, model.state_dict(), weights_metadata(method, recipe, tuple("abcdefghij"), "multilabel"))
    server.files["start.safetensors"] = path.read_bytes()
    common = ("train", "csra", "--recipe", "demo", "--epochs", 1, "--batch-size", 72, "--lr", 1e-30, "--gpus", 0)
    url = server.url + "start.safetensors"
    attnbias(*common, "--data-root", demo_root, "--load-from", url, "--out", tmp_path / "run", expect=0)
    trained = load_run("csra", str(tmp_path / "run"), {}).model
    assert torch.equal(trained.classifier.weight, model.classifier.weight)
    assert "answers 404" in attnbias("val", "csra", "--load-from", server.url + "gone.pth", "--gpus", 0, expect=3).err


def test_a_file_of_the_hub(server: ArchiveServer, tmp_path: Path) -> None:
    server.files["me/models/resolve/main/part/w.safetensors"] = CONTENT
    server.headers["X-Repo-Commit"] = "a" * 40
    server.tag = f'"{SHA}"'  # as the hub marks its large files
    probe = "import sys\nfrom attnbias.methods.engine.published import locate\nprint(locate(sys.argv[1]))"

    def run(offline: str) -> subprocess.CompletedProcess[str]:
        hub = {"HF_ENDPOINT": server.url.rstrip("/"), "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-c", probe, "hf://me/models/part/w.safetensors"]
        environment = {**os.environ, **hub, "ATTNBIAS_OFFLINE": offline}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert "w.safetensors cannot be had: offline, and it is not in the hub's cache" in run("1").stderr
    assert Path(run("0").stdout.strip()).read_bytes() == CONTENT
    server.files.clear()
    path = Path(run("1").stdout.strip())
    assert path.read_bytes() == CONTENT
    path.resolve().write_bytes(CONTENT[:-1] + b"!")
    assert f"has sha256:{hashlib.sha256(CONTENT[:-1] + b'!').hexdigest()}, expected sha256:{SHA}" in run("1").stderr


def test_a_hub_name_without_a_repository() -> None:
    with pytest.raises(UsageError, match="expected hf://ORGANISATION/REPOSITORY"):
        locate("hf://timm")


# The table ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_manifest_agrees_with_itself_and_with_the_recipes(name: str) -> None:
    found = PUBLISHED[name]
    assert found.name == name
    assert found.url.startswith(("https://", "hf://"))
    assert found.browser == found.url.startswith("https://drive.google.com/")
    assert (found.algorithm is None) == (found.digest is None)
    assert "/" not in found.file
    assert found.licence
    for method in found.methods:
        assert method in METHODS
    if found.recipe:
        (method,) = found.methods
        paper = get_method(method).named_recipe(found.recipe).paper
        assert all(paper[measure] == value for measure, value in found.paper.items())


def test_the_command_prints_where_it_is(server: ArchiveServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "PUBLISHED", {"w": entry(server)})
    monkeypatch.setattr(screen, "PLAIN_EVERY", 0.0)
    done = [attnbias("weights", "fetch", "w", expect=0) for _ in range(2)]
    assert [each.out.strip() for each in done] == [str(cache / "w" / "w.pth")] * 2
    told = {line.partition(":")[0] for line in done[0].err.splitlines() if " of " in line}
    assert told == {"fetching w.pth", "verifying w.pth"}  # how far it is
    assert len(server.requests) == 1
