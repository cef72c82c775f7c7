"""One golden case: a file of figures computed by a paper's own program, and the arrays that its inputs stand for."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import golden
import numpy as np
import torch


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

    @property
    def config(self) -> dict[str, Any]:
        return self.raw.get("config") or {}

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
        return {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}

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
            # In `image_batch` names `{i}` is the picture's place in the batch, and never the step.
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
        place = np.arange(length)
        ids[:, 0] = 0
        ids[np.arange(count), lengths - 1] = 2
        ids[place >= lengths[:, None]] = 1
        return ids, (place < lengths[:, None]).astype(np.int64)


def _constant(spec: Any) -> Any:
    return spec["value"] if isinstance(spec, dict) else spec


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
