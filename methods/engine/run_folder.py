"""The run folder: checkpoints that are complete or not there at all, the metrics log, and the lock against two writers.

    RUN/recipe.yaml  environment.json  data.json  metrics.jsonl  timings.jsonl  .lock
    RUN/checkpoints/step-00000120/   model.safetensors [ema.safetensors] optimizer.pt progress.json complete.json

A checkpoint is written to a temporary folder and flushed; complete.json (sizes and CRC-32 of every file) comes last;
then the folder is renamed. A folder whose manifest does not hold is never picked up.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import Field, field_validator

from attnbias.data.atomic import flush_to_disk
from attnbias.data.lock import LOCK
from attnbias.data.owned import first_foreign, remove_owned
from attnbias.data.reading import StoredModel, in_words, read_json, reading, shown
from attnbias.methods.engine.errors import RunError, UsageError
from attnbias.methods.engine.metrics_log import MetricsLog
from attnbias.methods.engine.stored_evaluations import STORED
from attnbias.methods.engine.types import LogLine
from attnbias.weights.errors import WeightsError
from attnbias.weights.names import check_name

MANIFEST = "complete.json"
PROGRESS = "progress.json"
STEP = re.compile(r"step-(\d{8,})")
ENVIRONMENT = "environment.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
"""The system's errors of a disk without room."""

OWNED = re.compile(
    rf"""
    \.lock | \.?(recipe\.yaml|(environment|data)\.json|(metrics|timings)\.jsonl|metrics\.csv|log\.txt)((\.\d+)?\.part)?
    | checkpoints/
    | checkpoints/(step-\d{{8,}}|\.tmp-step-\d{{8,}}-\d+|\.tmp-old-step-\d{{8,}})/
      (progress\.json|complete\.json|optimizer\.pt|\.?(model|ema)\.safetensors(\.\d+\.part)?)?
    | {STORED.pattern}
    | attnbias/([\d.]+/)?(events\.out\.tfevents\.[^/]+|hparams\.yml)?  # TensorBoard's
    """,
    re.VERBOSE,
)
"""All that a run leaves in its folder, the evaluations of `val --store` among it (see data/owned.py)."""


class Progress(StoredModel, frozen=False, allow_inf_nan=True):
    """Where a run stands. Everything a resumed run must know beside tensors."""

    step: int = Field(0, ge=0)
    """Optimiser steps done."""
    milestone: int = Field(0, ge=0)
    """The step of the last evaluation point that was dealt with: an epoch's end, or an evaluation by `eval_steps`."""
    best: float | None = None
    best_step: int | None = Field(None, ge=0)
    best_weights: Literal["raw", "ema"] | None = None
    """Which weights reached the best measure."""
    history: list[dict[str, int | float | None]] = Field(default_factory=list)
    """One entry an evaluated epoch: {"epoch", "raw", "ema"} with the measure that decides."""
    window: list[dict[str, float]] = Field(default_factory=list)
    """Loss terms of the steps since the last line of the metrics log."""
    log_lines: int = Field(0, ge=0)
    """Lines of metrics.jsonl that belong to this state."""
    stopped_early: bool = False
    processes: int = Field(1, ge=1)
    accumulation: int = Field(1, ge=1)
    data: dict[str, str] = Field(default_factory=dict)
    """Split -> digest of its fingerprint (data/fingerprint.py); empty in checkpoints of earlier versions."""


class _File(StoredModel):
    bytes: int
    crc32: int


class _Manifest(StoredModel):
    """What complete.json says."""

    step: int
    files: dict[str, _File]

    @field_validator("files")
    @classmethod
    def _are_of_a_checkpoint(cls, files: dict[str, _File]) -> dict[str, _File]:
        if missing := {"model.safetensors", "optimizer.pt", PROGRESS} - files.keys():
            raise ValueError(f"it lists no {min(missing)}")
        return files


def crc32(path: Path) -> int:
    """CRC-32 of a file, read in pieces."""
    value = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            value = zlib.crc32(piece, value)
    return value


def _system_error(error: BaseException | None) -> int | None:
    """The system's error number behind a failed write; None for an error of another kind.

    torch.save raises a RuntimeError after the system's error, and safetensors only quotes it in words. A loader's comes
    in the midst of anything, and has nothing to do with it.
    """
    if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
        error = error.__context__
    if isinstance(error, OSError):
        return error.errno
    quoted = re.search(r"os error (\d+)", str(error)) if isinstance(error, WeightsError) else None
    return int(quoted[1]) if quoted else None


def _is_json_with(path: Path, *names: str) -> bool:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {*names} <= content.keys()


def damage(folder: Path, *names: str) -> str | None:
    """What keeps a checkpoint folder from being whole, in words; None where all is as its manifest says.

    Compared are the sizes and CRC-32 of all files, or of those `names`.
    """
    try:
        files = _Manifest.model_validate(read_json(folder / MANIFEST)).files
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError) as error:
        reason = in_words(error) if isinstance(error, ValueError) else error.strerror
        return f"{MANIFEST} cannot be read ({reason})"
    for name in names or sorted({PROGRESS, *files}):
        path = folder / name
        if name not in files:
            return f"{MANIFEST} says nothing of {name}"
        if Path(name).name != name:
            return f"{MANIFEST} names {shown(name)}, which is not a file of the folder"
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != files[name].bytes:
            return f"{name} has {path.stat().st_size:,} bytes, {MANIFEST} says {files[name].bytes:,}"
        if crc32(path) != files[name].crc32:
            return f"{name} is not as it was written (its CRC-32 differs)"
    return None


def check_whole(folder: Path, *names: str) -> None:
    """Refuse a checkpoint whose files, or those `names` of them, are not as they were written.

    Raises:
        WeightsError: what is wrong, and what can be loaded instead.
    """
    if (why := damage(folder, *names)) is None:
        return
    siblings = RunFolder(folder.parent.parent)
    other = siblings.latest() if folder.parent.name == siblings.checkpoints.name else None
    mend = f"or load another: --load-from {other}" if other else "no other one of its run is whole"
    raise WeightsError(f"checkpoint {folder} is damaged: {why}; restore it, {mend}")


def check_resumable(checkpoint: Path, *names: str) -> None:
    """Refuse to go on from what is not a whole checkpoint folder, or one whose files `names` are not whole.

    Raises:
        WeightsError: what is wrong.
    """
    if (why := damage(checkpoint, *names)) is not None:
        raise WeightsError(
            f"{checkpoint} is not a complete checkpoint folder: {why}; --resume auto takes the newest one of --out"
        )


class RunFolder:
    """One run's folder on disk. Only the main process writes."""

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = MetricsLog(path)
        self.keep = keep
        self._lock = FileLock(path / LOCK, blocking=False)

    # Opening ---------------------------------------------------------------------------------------------------------

    def check(self, *, resume: bool, overwrite: bool) -> bool:
        """Whether the folder holds something already; changes nothing.

        Raises:
            UsageError: it holds a run and neither `resume` nor `overwrite` was asked for, or more than a run.
        """
        if self.path.is_symlink() and not self.path.exists():
            raise UsageError(f"output folder {self.path} is a link to nothing; is its disk mounted?")
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"output folder {self.path} is not a folder; choose another --out")
        used = self.path.exists() and first_foreign(self.path, {LOCK, "checkpoints/"}.__contains__) is not None
        if used and overwrite:
            self._check_holds_only_a_run()
        elif used and not resume:
            raise UsageError(
                f"output folder {self.path} is not empty; continue it with --resume auto, "
                "choose another --out, or add --overwrite"
            )
        return used

    def check_free(self, *, resume: bool, overwrite: bool) -> None:
        """As `check`, and that no run is writing into the folder now.

        Raises:
            UsageError: as `check`. RunError: another run is writing into it.
        """
        self.check(resume=resume, overwrite=overwrite)
        if (self.path / LOCK).is_file():
            try:
                self._lock.acquire()
            except Timeout:
                raise self._in_use() from None
            self._lock.release()

    def open(self, *, resume: bool, overwrite: bool) -> None:
        """Create and lock the folder; with `overwrite`, empty it first where it holds a run and nothing else.

        Raises:
            UsageError: as `check`, or the folder cannot be made. RunError: the disk is full, or another run is
                writing into it.
        """
        try:
            used = self.check(resume=resume, overwrite=overwrite)
            check_name(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise self._in_use() from None
        except NotADirectoryError:
            raise UsageError(f"output folder {self.path} is not a folder; choose another --out") from None
        except OSError as error:
            kind = RunError if error.errno in FULL else UsageError
            raise kind(f"cannot write to output folder {self.path}: {error.strerror}; choose another --out") from None
        if used and overwrite:
            # What tells that this is a run goes last: a kill in between leaves a folder that can be overwritten.
            remove_owned(self.path, lambda name: name not in (LOCK, ENVIRONMENT) and OWNED.fullmatch(name))
            (self.path / ENVIRONMENT).unlink()
        for half in filter(lambda path: OWNED.fullmatch(path.name), self.path.glob(".*.part")):
            half.unlink()  # killed while it was written
        self.checkpoints.mkdir(exist_ok=True)
        for leftover in self.checkpoints.glob(".tmp-*"):
            name = leftover.name.removeprefix(".tmp-old-")
            if name != leftover.name and not (self.checkpoints / name).exists():
                leftover.rename(self.checkpoints / name)  # killed between the two renames of `save`
            else:
                shutil.rmtree(leftover)

    def _in_use(self) -> RunError:
        return RunError(f"output folder {self.path} is in use by another run; choose another --out")

    def _check_holds_only_a_run(self) -> None:
        if not _is_json_with(self.path / ENVIRONMENT, "command", "torch"):
            raise UsageError(f"--overwrite replaces runs only, and {self.path} holds none; choose another --out")
        if foreign := first_foreign(self.path, OWNED.fullmatch):
            raise UsageError(
                f"--overwrite replaces what a run wrote, and {foreign} is not of a run; move it away, "
                "or choose another --out"
            )

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Steps that have a checkpoint folder, ascending; completeness is not looked at, nor are other names."""
        names = (STEP.fullmatch(path.name) for path in self.checkpoints.glob("step-*") if path.is_dir())
        return sorted(int(name[1]) for name in names if name)

    def folder(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.checkpoints / f"step-{step:08d}"

    def newest_whole(self) -> tuple[Path | None, list[str]]:
        """The newest complete checkpoint, or None, and what is wrong with each newer one."""
        damaged: list[str] = []
        for step in reversed(self.steps()):
            if (why := damage(self.folder(step))) is None:
                return self.folder(step), damaged
            damaged.append(f"checkpoint {self.folder(step)} is damaged: {why}")
        return None, damaged

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return self.newest_whole()[0]

    def newest(self) -> Path | None:
        """The newest checkpoint, complete or not, or None."""
        return next((self.folder(step) for step in reversed(self.steps())), None)

    def best_step(self) -> int | None:
        """The step that reached the best measure so far; None before the first evaluation.

        The newest checkpoint says which one: a name kept beside them could lag behind after a kill.

        Raises:
            WeightsError: it is damaged.
        """
        if (newest := self.newest()) is None:
            return None
        check_whole(newest, PROGRESS)
        return self.read_progress(newest).best_step

    def save(self, progress: Progress, write: Callable[[Path], None]) -> Path:
        """Write a checkpoint: `write(folder)` puts the tensor files there, the rest is done here.

        Raises:
            RunError: the disk is full or not writable; what was saved before is untouched.
        """
        final = self.folder(progress.step)
        part = self._part(progress.step)
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            write(part)
            (part / PROGRESS).write_text(json.dumps(progress.model_dump(), indent=1))
            files = {p.name: {"bytes": p.stat().st_size, "crc32": crc32(p)} for p in sorted(part.iterdir())}
            for name in files:
                flush_to_disk(part / name)
            self.metrics.flush()  # progress.json counts its lines
            (part / MANIFEST).write_text(json.dumps({"step": progress.step, "files": files}, indent=1))
            flush_to_disk(part / MANIFEST)
            flush_to_disk(part)
            if final.exists():  # the same step again, after a resume: the old one stays until the new one is whole
                old = self.checkpoints / f".tmp-old-{final.name}"
                final.rename(old)
                part.rename(final)
                shutil.rmtree(old)
            else:
                part.rename(final)
            flush_to_disk(self.checkpoints)
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            if (number := _system_error(error)) is None:
                raise
            raise self.cannot_write(f"checkpoint {final}", number) from None
        self._prune(progress)
        return final

    def _prune(self, progress: Progress) -> None:
        # Later steps are of a course that the run left when it was resumed before them.
        kept = {*[step for step in self.steps() if step <= progress.step][-self.keep :], progress.best_step}
        for step in self.steps():
            if step not in kept:
                with suppress(OSError):  # what cannot be removed stays
                    shutil.rmtree(self.folder(step).rename(self._part(step)), ignore_errors=True)

    def _part(self, step: int) -> Path:
        """A step's checkpoint while it is written, and while it is removed: under its own name it is always whole."""
        return self.checkpoints / f".tmp-{self.folder(step).name}-{os.getpid()}"

    @staticmethod
    def read_progress(folder: Path) -> Progress:
        """Read where a checkpoint's run stood.

        Raises:
            WeightsError: it is missing or damaged, or another version wrote it.
        """
        path = folder / PROGRESS
        try:
            with reading(path, "or another version of attnbias wrote it; train again", WeightsError):
                return Progress.model_validate(read_json(path))
        except (FileNotFoundError, NotADirectoryError):
            raise WeightsError(f"{folder} holds no {PROGRESS}; it is not a checkpoint folder") from None

    def cannot_write(self, what: str, number: int) -> RunError:
        """The error of something that could not be written, by the system's error number."""
        reason = "the disk is full" if number in FULL else os.strerror(number)
        kept = "the last good checkpoint is untouched" if self.latest() else "the run has no checkpoint yet"
        return RunError(f"cannot write {what}: {reason}; {kept}")

    # The metrics log -------------------------------------------------------------------------------------------------

    def log(self, line: LogLine) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            RunError: it cannot be written; a resumed run writes it again.
        """
        try:
            self.metrics.append(line)
        except OSError as error:
            raise self.cannot_write(str(self.metrics.path), error.errno or 0) from None
