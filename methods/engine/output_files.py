"""Files and folders that a command is told to write: what may be replaced, and where nothing may be written.

Nothing is replaced but what the same kind of command wrote before, whatever `--overwrite` says: never a file that the
command reads, by whatever name or link, and nothing of a run, a checkpoint or a prepared dataset.
"""

from __future__ import annotations

import csv
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from attnbias.data.names import real_path
from attnbias.data.prepared import MANIFEST as PREPARED
from attnbias.data.reading import read_json
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.stored import EXPORTED, KEY, PLAIN, need_onnx

Recognise = Callable[[Path], bool]
"""Whether a file is of the kind that a command writes."""


@dataclass(frozen=True)
class Kind:
    """A kind of file that a command writes."""

    words: str
    """"results of val"."""
    is_ours: Recognise


@dataclass(frozen=True)
class Target:
    """One file that a command is told to write."""

    path: Path
    kind: Kind


def requested(*files: tuple[Path | str | None, Kind]) -> list[Target]:
    """The files that were asked for: None is nothing, and "-" is standard output."""
    return [Target(Path(file), kind) for file, kind in files if file not in (None, "-")]


def check_targets(
    targets: Sequence[Target], reads: Sequence[str | Path], overwrite: bool, folders: Sequence[Path] = ()
) -> None:
    """Refuse files that cannot, or must not, be written later, before hours of work.

    `reads` are the files that the command reads. Folders among them need no look: what a run or a dataset holds is
    safe by its place, other files by not being of the command's kind. `folders` are what the command writes beside.

    Raises:
        UsageError: a file exists and is not to be replaced, or stands where nothing is or can be written, or is asked
            for twice.
    """
    taken: dict[Path, Target] = {}
    for target in targets:
        path = target.path
        other = taken.setdefault(real_path(path), target)
        if other is not target:
            raise UsageError(f"{path} cannot take {target.kind.words} and {other.kind.words}; give each its own name")
        if path.is_dir() or any(real_path(folder).is_relative_to(real_path(path)) for folder in folders):
            raise UsageError(f"{path} is a folder; name a file")
        check_location(path)
        if os.path.lexists(path):
            _check_replaced(target, reads, overwrite)
        check_writable(path)


def check_location(path: Path) -> None:
    """Refuse a file or folder inside a prepared dataset, a checkpoint, or what a run keeps; links are followed.

    Raises:
        UsageError: it is inside of one.
    """
    from attnbias.methods.engine.run_folder import MANIFEST, OWNED, PROGRESS

    for location in dict.fromkeys((path.absolute(), real_path(path.parent) / path.name, real_path(path))):
        for folder in location.parents:
            name = location.relative_to(folder).as_posix()
            if (folder / PREPARED).is_file():
                what = "prepared dataset"
            elif (folder / MANIFEST).is_file() or (folder / PROGRESS).is_file():
                what = "checkpoint"
            elif (folder / "checkpoints").is_dir() and (folder / "recipe.yaml").is_file():
                kept = name.startswith(("checkpoints/", "evaluations/")) or OWNED.fullmatch(name)
                if not kept:
                    continue
                what = "run"
            else:
                continue
            raise UsageError(f"{path} would be inside the {what} {folder}, whose files stay; choose another place")


def check_folder(folder: Path, overwrite: bool, targets: Sequence[Target], reads: Sequence[str | Path]) -> None:
    """As `check_targets`, for a folder that takes files; `targets` are those that it may hold already.

    Raises:
        UsageError: it is a file, or exists and nothing may be replaced. Else as `check_targets`.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder")
    if folder.exists() and not overwrite:
        raise UsageError(f"{folder} exists; choose another name or add --overwrite")
    check_location(folder)
    check_targets(targets, reads, overwrite)
    check_writable(folder)


def _check_replaced(target: Target, reads: Sequence[str | Path], overwrite: bool) -> None:
    path = target.path
    if not path.exists():
        raise UsageError(f"{path} is a link to nothing; remove it, or choose another name")
    if any(_is_file(each) and path.samefile(each) for each in reads):
        raise UsageError(f"{path} is read by this command; choose another name for {target.kind.words}")
    if not overwrite:
        raise UsageError(f"{path} exists; choose another name or add --overwrite")
    try:
        ours = path.is_file() and target.kind.is_ours(path)
    except UsageError:  # a package is missing, without which nobody can tell
        raise
    except Exception:  # readers of damaged or foreign files raise nearly any type
        ours = False
    if not ours:
        raise UsageError(
            f"--overwrite replaces what an earlier run of the command wrote, and {path} does not hold "
            f"{target.kind.words}; move it away, or choose another name"
        )


def check_writable(path: Path) -> None:
    """Refuse a file or folder that cannot be made.

    Raises:
        UsageError: what is above it is a file, or takes none.
    """
    above = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=above):  # permissions do not tell: root has all of them in /proc, too
            pass
    except OSError as error:
        why = f"no file can be made in {above} ({error.strerror})" if above.is_dir() else f"{above} is not a folder"
        raise UsageError(f"cannot write {path}: {why}; choose another place") from None


def _is_file(name: str | Path) -> bool:
    """Whether an input is a file here, and not a folder, a published name or a URL (which may be too long a name)."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


# Kinds ----------------------------------------------------------------------------------------------------------------


def json_with(*keys: str) -> Recognise:
    """Tell JSON by the keys of its object, or of every object in its list."""

    def is_ours(path: Path) -> bool:
        content = read_json(path)
        items = content if isinstance(content, list) else [content]
        return bool(items) and all(isinstance(item, dict) and item.keys() >= set(keys) for item in items)

    return is_ours


def csv_with(*columns: str) -> Recognise:
    """Tell CSV by its columns, in this order, as regular expressions; the last one is that of all that follow."""

    def is_ours(path: Path) -> bool:
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
        expected = [*columns, *[columns[-1]] * (len(header) - len(columns))]
        return len(header) >= len(columns) and all(map(re.fullmatch, expected, header))

    return is_ours


def is_predicted(path: Path) -> bool:
    """Tell the table of `predict`: by its columns where it is of texts, else, as columns are called as the classes, by
    its scores."""
    if any(columns(path) for columns in TEXT_TABLES):
        return True
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = islice(csv.reader(file), 2)
    scores = [cell for row in rows for cell in row[1:]]
    return header[0] == "path" and len(header) > 1 and all(re.fullmatch(r"\d\.\d{6}", score) for score in scores)


TEXT_TABLES = (csv_with("path", "second_path", "id", "text", "answer", "score"), csv_with("rank", "path", "score"))
"""The tables of `predict` where models are asked in words."""


def table_with(columns: Recognise, keys: Recognise) -> Recognise:
    """Tell CSV where the name ends so, else JSON."""
    return lambda path: (columns if path.suffix == ".csv" else keys)(path)


def _holds_priors(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return {"names.npy", "vectors.npy", "about.npy"} <= {*archive.namelist()}


def _holds_our_weights(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return bool((file.metadata() or {}).keys() & {KEY, PLAIN})


def _holds_our_graph(path: Path) -> bool:
    """By what `export` writes beside the graph: a file in the archive of .pt2, the metadata of .onnx."""
    if path.suffix == ".pt2":
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"/{EXPORTED}") for name in archive.namelist())
    need_onnx()
    import onnx

    model = onnx.load(path, load_external_data=False)
    return any(each.key == KEY for each in model.metadata_props)


RESULTS = Kind("results of val", json_with("load_from", "source"))
SCORES = Kind("scores of val", csv_with("path", "target:.*|id|text|answer|score:.*"))
ROBUSTNESS = Kind("a table of robustness", table_with(csv_with("weights", "test", ".*"), json_with("weights", "test")))
BIAS_KINDS = {
    "bias.json": Kind("a measured attention bias", json_with("map", "truth")),
    "bias_samples.csv": Kind("a measured attention bias", csv_with("picture", "path", "class", ".*")),
}
"""The files of `val --bias-out`, by name."""
PREDICTIONS = Kind("answers of predict", json_with("weights", "method", "pictures"))
PREDICTED_SCORES = Kind("scores of predict", is_predicted)
SUBMISSION = Kind("answers for VQA's test server", json_with("question_id", "answer"))
PRIORS = Kind("priors", _holds_priors)
AUDIT_JUNIT = Kind(
    "conditions of an audit", lambda path: 'name="attnbias audit"' in path.read_text(encoding="utf-8")[:200]
)
AUDIT_MARKDOWN = Kind("findings of an audit", lambda path: path.read_text(encoding="utf-8").startswith("## Audit of "))
WEIGHTS = Kind("weights of ours", _holds_our_weights)
GRAPH = Kind("an exported model", _holds_our_graph)
GRAPH_DATA = Kind("the weights of an exported model", lambda path: _holds_our_graph(path.with_suffix("")))
"""NAME.onnx.data, which a large NAME.onnx keeps its weights in."""
