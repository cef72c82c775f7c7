"""One golden case: a file of figures computed by a paper's own program, and the arrays that its inputs stand for."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.parity import golden


class UncomputedSetting(ValueError):
    """A setting has a value that neither the product nor the runner computes; or the case contradicts itself."""


class Settings(dict[str, Any]):
    """A case's settings, which remember what a runner has read: a setting that nobody reads is one that is ignored.

    Settings inside of others, and those in lists, remember too.
    """

    def __init__(self, content: dict[str, Any], place: str = "") -> None:
        self.place = place
        super().__init__({key: _remembering(value, f"{place}{key}") for key, value in content.items()})
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:  # so that `**settings` reads every item, one by one
        return super().__iter__()

    def items(self) -> Any:
        self._read.update(self)
        return super().items()

    def values(self) -> Any:
        self._read.update(self)
        return super().values()

    def only(self, **values: Any) -> None:
        """Hold settings to the one value that is computed, or that the rest of the case states.

        A setting that is left out has the program's default. Raises UncomputedSetting.
        """
        for key, value in values.items():
            if key in self and not _same(self[key], value):
                raise UncomputedSetting(
                    f"setting '{self.place}{key}' is {self[key]!r}; only {value!r} is computed here"
                )

    def choice(self, key: str, choices: dict[Any, Any], default: Any = None) -> Any:
        """Our word for the setting's value; raises UncomputedSetting where we have none."""
        value = self.get(key, default)
        if value not in choices:
            raise UncomputedSetting(f"setting '{self.place}{key}' is {value!r}; known: {list(choices)}")
        return choices[value]

    def unread(self) -> list[str]:
        """Settings that were not read; one inside of another is OUTER.INNER, one in a list OUTER[0].INNER."""
        names = []
        for key, value in super().items():
            if key not in self._read:
                names.append(f"{self.place}{key}")
                continue
            for part in value if isinstance(value, list) else [value]:
                names += part.unread() if isinstance(part, Settings) else []
        return names


def _same(given: Any, value: Any) -> bool:
    """Equal; numbers up to their last digits, a tuple like a list."""
    if isinstance(given, list):
        value = list(value) if isinstance(value, list | tuple) else value
        return isinstance(value, list) and len(given) == len(value) and all(map(_same, given, value))
    if isinstance(given, dict):
        return (
            isinstance(value, dict)
            and given.keys() == value.keys()
            and all(_same(each, value[key]) for key, each in given.items())
        )
    if isinstance(given, float) and isinstance(value, int | float):
        return math.isclose(given, value, rel_tol=1e-9)
    return bool(given == value and isinstance(given, bool) == isinstance(value, bool))


def _remembering(value: Any, place: str) -> Any:
    if isinstance(value, dict):
        return Settings(value, f"{place}.")
    if isinstance(value, list):
        return [_remembering(item, f"{place}[{index}]") for index, item in enumerate(value)]
    return value


@dataclass(frozen=True)
class Golden:
    """A case. `method` is the folder's name, `name` the file's without its endings, `kind` is set by the harness."""

    path: Path
    method: str
    name: str
    raw: dict[str, Any]

    @classmethod
    def read(cls, path: Path, method: str | None = None) -> Golden:
        """Read *.json.gz, *.json, or *.csv (its columns become the outputs)."""
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            raw: dict[str, Any] = {"outputs": {name: [_number(row[name]) for row in rows] for name in rows[0]}}
        else:
            raw = json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
        return cls(path, method or path.parent.name, path.name.split(".")[0], raw)

    @cached_property
    def config(self) -> Settings:
        return Settings(self.raw.get("config") or {})

    @property
    def layout(self) -> dict[str, Any]:
        """Published parameter names -> [shape, dtype]."""
        return self.raw.get("layout") or {}

    @property
    def salt(self) -> int:
        return self.raw.get("salt", 0)

    @property
    def inputs(self) -> dict[str, Any]:
        return self.raw.get("inputs") or {}

    @property
    def outputs(self) -> dict[str, Any]:
        return self.raw.get("outputs") or {}

    @property
    def tolerance(self) -> dict[str, Any]:
        return self.raw.get("tolerance") or {}

    @property
    def notes(self) -> str:
        return self.raw.get("notes") or ""

    @property
    def parameters(self) -> int:
        """Number of values in the layout, or in the largest one where the file holds several."""
        entries = self.layout.values()
        if all(isinstance(entry, list) for entry in entries):
            return sum(math.prod(shape) for shape, _ in entries)
        return max(sum(math.prod(shape) for shape, _ in layout.values()) for layout in entries)

    def state_dict(self, layout: dict[str, Any] | None = None, salt: int | None = None) -> dict[str, torch.Tensor]:
        """Golden weights under their published names, `config.weights_override` applied."""
        layout = self.layout if layout is None else layout
        weights = golden.state_dict(layout, self.salt if salt is None else salt)
        for name, spec in self.config.get("weights_override", {}).items():
            if name in weights:
                value = self.array(spec, name) if isinstance(spec, dict) and "kind" in spec else _constant(spec)
                weights[name] = np.broadcast_to(value, weights[name].shape).astype(weights[name].dtype)
        return {name: torch.from_numpy(value) for name, value in weights.items()}

    def input(self, key: str, step: int | None = None) -> Any:
        """The array that an input stands for; `step` fills `{k}` (or `{i}`, `{s}`) of a name, or is appended to it."""
        return self.array(self.inputs[key], key, step)

    def array(self, spec: Any, key: str, step: int | None = None) -> Any:
        """Build one input from its description; a text, a JSON content or a plain value is returned as it is.

        A `then` other than "relu" and "abs" is a sentence for the runner to follow.
        """
        if not isinstance(spec, dict) or "kind" not in spec:
            return spec
        kind, name, shape = spec["kind"], spec.get("name", key), tuple(spec.get("shape", ()))
        salt = spec.get("salt", self.salt)
        if step is not None:
            # In `image_batch` names `{i}` is the image's place in the batch, and never the step.
            marks = r"\{[ks]\}" if kind == "image_batch" else r"\{[iks]\}"
            name, found = re.subn(marks, str(step), name)
            name = name if found else f"{name}{step}"
        match kind:
            case "values":
                flat = [float(value) if isinstance(value, str) else value for value in spec["values"]]
                value = np.array(flat, dtype=spec.get("dtype", "float32")).reshape(shape)
            case "text" | "json":
                return spec["content"]
            case "normal" | "uniform":
                value = getattr(golden, kind)(name, shape, salt)
            case "labels":
                value = golden.labels(name, shape, spec.get("positive", 0.2), salt)
            case "integers":
                value = golden.integers(name, shape, spec["high"], salt)
            case "image":
                value = golden.image(name, shape[0], shape[1], salt)
            case "image_batch":
                value = golden.image_batch(name, shape, salt, spec.get("mean", 0.0), spec.get("std", 1.0))
            case "tokens":
                return self._tokens(spec, name, salt)
            case _:
                raise ValueError(f"{self.path.name}: input '{key}' has the unknown kind '{kind}'")
        # One cast at the end: a Python number must not widen or narrow the array.
        value = (value * spec.get("scale", 1) + spec.get("offset", 0)).astype(value.dtype)
        return {"relu": lambda x: np.maximum(x, 0), "abs": np.abs}.get(spec.get("then", ""), lambda x: x)(value)

    def _tokens(self, spec: dict[str, Any], name: str, salt: int) -> tuple[np.ndarray, np.ndarray]:
        """Sentence ids and mask, both (n, length) int64: <s>=0, </s>=2, <pad>=1."""
        count, length = spec["n"], spec["length"]
        ids = golden.integers(f"{name}_ids", (count, length), spec["vocab"] - 4, salt) + 4
        lengths = golden.integers(f"{name}_len", (count,), length - 4, salt) + 4
        position = np.arange(length)
        ids[:, 0] = 0
        ids[np.arange(count), lengths - 1] = 2
        ids[position >= lengths[:, None]] = 1
        return ids, (position < lengths[:, None]).astype(np.int64)


def _constant(spec: Any) -> Any:
    return spec["value"] if isinstance(spec, dict) else spec


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
