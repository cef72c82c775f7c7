"""A dataset, checked and indexed, as a request asks; what cannot be asked of it is refused first."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attnbias.data.cores import available_cores
from attnbias.data.names import own_name, unfit_name
from attnbias.data.own import holds_shards, own_info
from attnbias.data.prepare import Report, prepare
from attnbias.data.prepared import data_root
from attnbias.data.progress import ProgressCallback, silent
from attnbias.data.reading import Json
from attnbias.data.registry import DATASETS, dataset_folder
from attnbias.data.sets.contract import PrepareOptions
from attnbias.methods.engine.errors import RunError, UsageError, did_you_mean
from attnbias.methods.engine.output_files import check_location, check_writable
from attnbias.methods.engine.recipe import flag_of
from attnbias.methods.engine.requests import PrepareRequest
from attnbias.methods.engine.types import LABELLED


def prepare_data(request: PrepareRequest, progress: ProgressCallback = silent) -> Report:
    """Check a dataset and write its index files. Running it again repeats the checks and changes nothing.

    Raises:
        UsageError: there is no such dataset, or it does not take one of the options.
        DataError: annotations or images are missing or damaged, or the set stands prepared from something else.
        RunError: its folder cannot be written.
    """
    name = request.name
    own = name not in DATASETS and Path(name).exists()
    if own and not (Path(name).is_dir() or Path(name).is_file()):
        raise UsageError(f"{name} is neither a folder nor a regular file")
    if name not in DATASETS and not own:
        if Path(name).name != name or Path(name).suffix in (".csv", ".json"):
            raise UsageError(
                f"{name} does not exist; name a folder, .csv or COCO .json of yours, or a dataset of: "
                "attnbias list datasets"
            )
        raise UsageError(f"unknown dataset '{name}'{did_you_mean(name, DATASETS)}; see: attnbias list datasets")
    options = PrepareOptions(
        verify=request.verify,
        overwrite=request.overwrite,
        dry_run=request.dry_run,
        download=request.download,
        offline=request.offline,
        in_place=request.in_place,
        splits=request.splits,
        workers=request.workers or available_cores(),
        settings=_settings(request, own),
        name=request.called,
        train_split=request.train_split,
        val_split=request.val_split,
        val_fraction=request.val_fraction,
        val_seed=request.seed or 0,
        progress=progress,
    )
    folder = data_root(request.data_root) / (request.called or own_name(Path(name)))
    check_location(folder)
    if not request.dry_run:
        check_writable(folder)
    with _written_below(dataset_folder(request.called or name, request.data_root)):
        return prepare(name, request.source, request.data_root, options)


def _settings(request: PrepareRequest, own: bool) -> Json:
    """What is typed for some sets only, where this is one of them.

    Raises:
        UsageError: it is not, or two options contradict each other.
    """
    name = request.name
    info = None if own else DATASETS[name]
    _check_source(request, own)
    drawn = None if request.val_fraction is not None else request.seed
    typed = {
        "preset": request.preset,
        "size": request.size,
        "seed": drawn,
        "train": request.train,
        "eval": request.eval,
    }
    settings: Json = {option: value for option, value in typed.items() if value is not None}
    generated = info is not None and info.acquisition == "generated"
    if generated and request.source is not None:
        raise UsageError(f"'{name}' is made on the spot: it takes no --source")
    if request.in_place and info is not None and (info.task not in LABELLED or not info.archives or not info.unpack):
        raise UsageError(f"--in-place is for archives of labelled images that would be unpacked; '{name}' has none")
    if not generated and settings:
        raise UsageError(f"--{next(iter(settings))} belongs to the demo sets; '{name}' takes its images from --source")
    roles = ("train_split", "val_split", "val_fraction")
    given = next((role for role in roles if getattr(request, role) is not None), None)
    if given and info is not None and (generated or info.train is None):
        raise UsageError(f"{flag_of(given)} is for sets whose splits may play other roles; those of '{name}' are fixed")
    if request.val_fraction is not None and not 0 < request.val_fraction < 1:
        raise UsageError(f"--val-fraction {request.val_fraction:g} must lie between 0 and 1")
    if request.min_answers is not None:
        if info is None or "min_answers" not in info.settings:
            raise UsageError(f"--min-answers belongs to vqav2; '{name}' has no answers to count")
        settings["min_answers"] = request.min_answers
    if request.level is not None:
        if info is None or "level" not in info.settings:
            raise UsageError(f"--level belongs to inat2018 and inat2019; '{name}' has no taxonomy")
        settings["level"] = request.level
    if request.masks is not None:
        if "masks" not in (info or own_info(Path(name), request.called, request.in_place)).settings:
            raise UsageError(f"--masks belongs to sets in COCO layout; '{name}' holds no masks of objects")
        settings["masks"] = request.masks
    if request.contexts is not None:
        if not own or "contexts" not in own_info(Path(name), request.called, request.in_place).settings:
            raise UsageError(f"--contexts belongs to folders of classes; '{name}' is none")
        settings["contexts"] = request.contexts
    if request.orientation is not None:
        if not own:
            raise UsageError(f"--orientation belongs to sets of your own; '{name}' is read as the papers' programs do")
        settings["orientation"] = request.orientation
    return settings


def _check_source(request: PrepareRequest, own: bool) -> None:
    name, called = request.name, request.called
    if own and (request.source is not None or request.download or request.offline):
        raise UsageError(f"'{name}' is the source itself: it takes no --source, --download or --offline")
    if own and request.in_place and not holds_shards(Path(name)):
        raise UsageError(f"--in-place is for folders of WebDataset shards (.tar); '{name}' holds none")
    if called is not None and not own:
        raise UsageError(f"--name belongs to sets of your own; '{name}' keeps its name")
    if called is not None and (reason := unfit_name(called)):
        raise UsageError(f"--name {called[:50]!r}: the name {reason}")
    if request.download and request.offline:
        raise UsageError("--download fetches and --offline forbids it: give one of them")


@contextmanager
def _written_below(folder: Path) -> Iterator[None]:
    """Say what cannot be written, and what to do about it."""
    try:
        yield
    except OSError as error:
        location = error.filename or folder
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise UsageError(f"{location} cannot be a folder: {error.strerror}; choose another --root") from None
        if error.errno == errno.ENAMETOOLONG:
            raise  # of a path that was typed
        raise RunError(f"{location}: {error.strerror or error}") from None
