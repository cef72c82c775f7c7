"""Archives unpack whole or not at all: hostile ones leave nothing, a stopped run continues, a second does nothing."""

from __future__ import annotations

import io
import random
import resource
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

from attnbias.data.errors import DataError
from attnbias.data.fetch import unpack as module
from attnbias.data.fetch.unpack import is_unpacked, unpack

FILES = {
    "VOC/a/1.jpg": b"one" * 100,
    "VOC/a/2.jpg": b"two" * 100,
    "VOC/list.txt": b"",
    "top.txt": bytes(range(256)) * 50,
}


def tar(path: Path, files: dict[str, bytes], mode: Any = "w", **special: Any) -> Path:
    """Write a tar; `special` gives one more member, "member", other attributes."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if special:
            info = tarfile.TarInfo("member")
            for key, value in special.items():
                setattr(info, key, value)
            archive.addfile(info)
    return path


def pack_zip(path: Path, files: dict[str, bytes], mode: int | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if mode is not None:
                info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


def pack(kind: str, folder: Path, files: dict[str, bytes]) -> Path:
    if kind == "zip":
        return pack_zip(folder / "set.zip", files)
    return tar(folder / f"set.{kind}", files, {"tar": "w", "tar.gz": "w:gz"}[kind])


def tree(folder: Path) -> dict[str, bytes]:
    """Everything below a folder but the unpacker's own notes."""
    notes = (".lock", module.MANIFEST)
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in notes
    }


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_unpacked_whole_and_once(tmp_path: Path, kind: str) -> None:
    archive, target = pack(kind, tmp_path, FILES), tmp_path / "target"
    assert not is_unpacked(archive.name, target)
    unpack(archive, target)
    assert tree(target) == FILES
    (target / "top.txt").unlink()
    unpack(archive, target)  # done before: nothing is looked at again
    assert "top.txt" not in tree(target)
    archive.unlink()
    assert is_unpacked(archive.name, target)


def test_of_two_members_of_one_name_the_last_wins(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "twice.tar", "w") as archive, zipfile.ZipFile(tmp_path / "twice.zip", "w") as zipped:
        for content in (b"old", b"new"):  # of one length, as a file that was mended and added once more
            info = tarfile.TarInfo("VOC/a/1.jpg")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            with warnings.catch_warnings(action="ignore"):
                zipped.writestr("VOC/a/1.jpg", content)
    for kind in ("tar", "zip"):
        unpack(tmp_path / f"twice.{kind}", tmp_path / kind)
        assert tree(tmp_path / kind) == {"VOC/a/1.jpg": b"new"}


def test_two_archives_share_folders(tmp_path: Path) -> None:
    first = tar(tmp_path / "trainval.tar", FILES)
    second = tar(tmp_path / "test.tar", {"VOC/a/3.jpg": b"3", "VOC/b/4.jpg": b"4", "top.txt": b"newer"})
    for archive in (first, second):
        unpack(archive, tmp_path / "target")
    assert tree(tmp_path / "target") == {**FILES, "VOC/a/3.jpg": b"3", "VOC/b/4.jpg": b"4", "top.txt": b"newer"}


def test_a_tar_of_tars(tmp_path: Path) -> None:
    inner = {f"n0{i}.tar": tar(tmp_path / f"n0{i}.tar", {f"n0{i}_{k}.JPEG": b"x" * k for k in (1, 2)}) for i in (1, 2)}
    outer = tar(tmp_path / "train.tar", {name: path.read_bytes() for name, path in inner.items()})
    unpack(outer, tmp_path / "train", nested=True)
    assert tree(tmp_path / "train") == {f"n0{i}/n0{i}_{k}.JPEG": b"x" * k for i in (1, 2) for k in (1, 2)}


@pytest.mark.parametrize(
    "name", ["/etc/attnbias", "../out", "a/../../out", "..", "C:/out", "a\\..\\..\\out"], ids=lambda name: name
)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_names_that_lead_elsewhere(tmp_path: Path, kind: str, name: str) -> None:
    archive = pack(kind, tmp_path, {**FILES, name: b"evil"})
    with pytest.raises(DataError, match="leads out of the folder"):
        unpack(archive, tmp_path / "target")
    assert tree(tmp_path / "target") == {}
    assert not is_unpacked(archive.name, tmp_path / "target")
    assert {p.name for p in tmp_path.iterdir()} == {archive.name, "target"}


@pytest.mark.parametrize(
    "special",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.SYMTYPE, "linkname": "top.txt"},
        {"type": tarfile.LNKTYPE, "linkname": "top.txt"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.BLKTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
    ids=["symlink out", "symlink in", "hard link", "character device", "block device", "pipe"],
)
def test_tar_links_and_devices(tmp_path: Path, special: dict[str, Any]) -> None:
    archive = tar(tmp_path / "set.tar", FILES, **special)
    with pytest.raises(DataError, match="link or a device"):
        unpack(archive, tmp_path / "target")
    assert tree(tmp_path / "target") == {}


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666, stat.S_IFIFO | 0o666])
def test_zip_links_and_devices(tmp_path: Path, mode: int) -> None:
    archive = pack_zip(tmp_path / "set.zip", {"member": b"/etc/passwd"}, mode)
    with pytest.raises(DataError, match="link or a device"):
        unpack(archive, tmp_path / "target")
    assert tree(tmp_path / "target") == {}


@pytest.mark.parametrize("name", [".members.npz", "a/.members.npz", ".unpacked.json"])
def test_names_of_our_own_files(tmp_path: Path, name: str) -> None:
    """A table of members would have images read out of any file."""
    with pytest.raises(DataError, match="has the name of a file that prepare-data writes"):
        unpack(tar(tmp_path / "set.tar", {"a.txt": b"a", name: b"{}"}), tmp_path / "target")
    assert tree(tmp_path / "target") == {}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_bombs(tmp_path: Path, kind: str) -> None:
    archive = pack(kind, tmp_path, {f"{i}.bin": bytes(4_000_000) for i in range(5)})
    assert archive.stat().st_size < 50_000
    with pytest.raises(DataError, match="bomb"):
        unpack(archive, tmp_path / "target")
    assert tree(tmp_path / "target") == {}


def test_a_sparse_member_is_counted_by_what_it_would_fill(tmp_path: Path) -> None:
    archive = tar(tmp_path / "set.tar", FILES)
    info = tarfile.TarInfo("holes")
    info.size = 10**12
    header = info.tobuf(tarfile.GNU_FORMAT)
    archive.write_bytes(header + bytes(10240))
    with pytest.raises(DataError, match="bomb"):
        unpack(archive, tmp_path / "target")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_every_truncation_is_refused(tmp_path: Path, kind: str) -> None:
    archive = pack(kind, tmp_path, FILES)
    content = archive.read_bytes()
    # A tar is whole as soon as a block of zeros follows its last member; what comes then is padding.
    end = len(content) if kind != "tar" else sum(512 + -(-len(c) // 512) * 512 for c in FILES.values()) + 511
    for size in {*range(0, end, 301), end - 1, *(range(0, end, 512) if kind == "tar" else ())}:
        archive.write_bytes(content[:size])
        with pytest.raises(DataError):
            unpack(archive, tmp_path / "target")
        assert tree(tmp_path / "target") == {}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_changed_bytes_are_noticed(tmp_path: Path, kind: str) -> None:
    noise = random.Random(0).randbytes(20_000)
    archive = pack(kind, tmp_path, {"a.bin": noise})
    content = bytearray(archive.read_bytes())
    content[10_000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="delete it and fetch it again"):
        unpack(archive, tmp_path / "target")
    assert tree(tmp_path / "target") == {}


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "set.zip", {"a.txt": b"secret"})
    content = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"'a\.txt' is encrypted"):
        unpack(archive, tmp_path / "target")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_stopped_run_shows_nothing_and_is_continued(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, target, written = pack(kind, tmp_path, FILES), tmp_path / "target", []

    def stop(what: str, done: int, total: int) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(done)

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, target, progress=stop)
    assert not is_unpacked(archive.name, target)
    assert not {"VOC", "top.txt"} & {path.name for path in target.iterdir()}
    opened = []
    copy = module.shutil.copyfileobj
    monkeypatch.setattr(module.shutil, "copyfileobj", lambda *a: (opened.append(1), copy(*a)))
    unpack(archive, target)
    assert tree(target) == FILES
    assert len(opened) == 1  # three of four members were whole already


def test_a_full_disk_shows_nothing_and_is_continued(tmp_path: Path) -> None:
    archive, target = tar(tmp_path / "set.tar", FILES), tmp_path / "target"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))  # the kernel refuses more, as a full disk does
    try:
        with pytest.raises(DataError, match="mend that and run again"):
            unpack(archive, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not {"VOC", "top.txt"} & {path.name for path in target.iterdir()}
    unpack(archive, target)
    assert tree(target) == FILES


def test_parts_of_another_version_are_not_used(tmp_path: Path) -> None:
    archive, target = tar(tmp_path / "set.tar", FILES), tmp_path / "target"
    stale = target / ".unpack-set.tar-1a2b" / "VOC" / "a"
    stale.mkdir(parents=True)
    (stale / "1.jpg").write_bytes(b"old" * 100)
    unpack(archive, target)
    assert tree(target) == FILES


@pytest.mark.parametrize("content", ["[]", "5", '{"a.zip": "1"}', "[" * 100_000])
def test_damaged_notes_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / ".unpacked.json").write_text(content)
    with pytest.raises(DataError, match=r"\.unpacked\.json is damaged \(.*delete it"):
        is_unpacked("a.zip", tmp_path)


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    page = tmp_path / "set.tar"
    page.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(DataError, match=r"set\.tar cannot be unpacked"):
        unpack(page, tmp_path / "target")
