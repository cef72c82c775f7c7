"""A prepared dataset on disk: where it stands, its manifest, whether it is ready to be read, and what may be replaced.

DATA_ROOT/NAME/prepared.json   what was prepared, from where and how; written last
DATA_ROOT/NAME/index/SPLIT.json   one index a split (data/index.py)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from attnbias.data.atomic import replacing
from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.owned import first_foreign, remove_owned
from attnbias.data.reading import FileName, Items, Json, StoredModel, read_json, reading, shown
from attnbias.data.tally import Counted

MANIFEST = "prepared.json"

INDEXES = re.compile(r"(index|csra)/([^/]+\.json(\.\d+\.part)?)?")
"""What is written anew of a set that is made in the folder, whenever other splits of it are asked for."""

PREPARED = re.compile(
    INDEXES.pattern + r"|tokenizer/(\.?tokenizer(_config)?\.json(\.\d+\.part)?)?"
    r"|annotations/(\.?objects\.json(\.\d+\.part)?)?"
    r"|source/(\.?\.members\.npz(\.\d+\.part)?)?"
)
"""All that is written into the folder of a set that is read from elsewhere (see data/owned.py)."""


def data_root(root: Path | None = None) -> Path:
    """Folder that holds all prepared datasets: `root`, else $ATTNBIAS_DATA, else ./datasets."""
    return root if root is not None else Path(os.environ.get("ATTNBIAS_DATA") or "datasets")


def _inside(name: str) -> str:
    if "/" in name or name in (".", ".."):
        raise ValueError("expected a name, not a path")
    return name


Split = Annotated[FileName, AfterValidator(_inside)]
"""A split's name, which is that of its index file."""


class Prepared(StoredModel):
    """What `prepare-data` left in one dataset's folder."""

    dataset: FileName
    splits: Items[Split]
    roles: dict[str, Split]
    """"train" and "val" -> the split that plays the part."""
    source: FileName | None = None
    """The folder that the images stand in, where they were not made or fetched here."""
    settings: Json = Field(default_factory=dict)
    """What decided a generated set; the same settings give the same set."""
    left_out: dict[str, Counted] = Field(default_factory=dict)
    """Files and folders of the source that do not count: reason -> how many, and the first of them."""
    remarks: dict[str, Counted] = Field(default_factory=dict)
    """What was noticed of a person's own images: reason -> how many, and the first of them."""

    def write(self, folder: Path) -> None:
        """Write the manifest atomically."""
        with replacing(folder / MANIFEST) as file:
            file.write(json.dumps(self.model_dump(), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Prepared:
        """Read the manifest of a dataset's folder.

        Raises:
            FileNotFoundError: nothing was prepared there.
            DataError: the manifest is damaged.
        """
        try:
            with reading(folder / MANIFEST, "run prepare-data again"):
                return cls.model_validate(read_json(folder / MANIFEST))
        except NotADirectoryError:
            raise FileNotFoundError(folder / MANIFEST) from None

    @model_validator(mode="after")
    def _fits_together(self) -> Prepared:
        if not self.splits:
            raise ValueError("it names no splits")
        if unknown := [split for split in self.roles.values() if split not in self.splits]:
            raise ValueError(f"a role is given to {shown(unknown[0])}, which is not a split")
        return self

    def open(self, folder: Path, split: str) -> Index:
        """Read the index of a split, named by its role (train, val) or itself; a role goes before a split of that name.

        Raises:
            DataError: the dataset has no such split, or its index is damaged.
        """
        return Index.read(index_path(folder, self.named(split)))

    def named(self, split: str) -> str:
        """The split of a role or a name.

        Raises:
            DataError: there is none.
        """
        name = self.roles.get(split, split)
        if name not in self.splits:
            raise DataError(f"dataset '{self.dataset}' has no split '{split}'; it has: {', '.join(self.splits)}")
        return name


def index_path(folder: Path, split: str) -> Path:
    """Where the index of a split stands in a dataset's folder."""
    return folder / "index" / f"{split}.json"


def is_ready(folder: Path) -> bool:
    """Whether a dataset's folder holds a manifest and every index that it names.

    Quick (nothing is parsed but the manifest): both are written by rename, so what stands there is whole.
    """
    try:
        prepared = Prepared.read(folder)
    except (FileNotFoundError, DataError):
        return False
    return all(index_path(folder, split).is_file() for split in prepared.splits)


def standing(folder: Path, source: Path | None, settings: Mapping[str, object], *, replace: bool) -> Prepared | None:
    """The manifest of a set that was prepared here from the same source with the same settings; None where none was.

    Raises:
        DataError: it was prepared from something else, and it shall not be replaced.
    """
    if not is_ready(folder):
        return None
    prepared = Prepared.read(folder)
    if prepared.source == (str(source) if source else None) and prepared.settings == dict(settings):
        return prepared
    if replace:
        return None
    elsewhere = prepared.source != (str(source) if source else None)
    was = f"from {prepared.source}" if elsewhere else f"with {_different(prepared.settings, settings)}"
    raise DataError(f"{folder} was prepared {was}; add --overwrite to replace it, or --root DIR for a second one")


def discard(folder: Path, owned: re.Pattern[str] = PREPARED) -> None:
    """Remove the manifest of a dataset's folder, then what `owned` matches of it (see data/owned.py).

    Raises:
        DataError: a folder of the set holds something else; nothing was removed.
    """
    parts = [name for name in ("index", "csra", "tokenizer", "annotations", "images") if owned.fullmatch(f"{name}/")]
    if foreign := first_foreign(folder, lambda name: name == MANIFEST or owned.fullmatch(name), [MANIFEST, *parts]):
        raise DataError(f"{foreign} was not written by prepare-data, which would replace it; move it away first")
    (folder / MANIFEST).unlink(missing_ok=True)
    remove_owned(folder, owned.fullmatch, parts)


def _different(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """The settings that differ, as they were."""
    different = [f"{name} {value}" for name, value in before.items() if now.get(name) != value]
    return ", ".join(different + [f"no {name}" for name in now if name not in before])
