"""What the functions of attnbias answer: values with names, shown as pictures and tables in a notebook.

`to_dict` gives plain values for JSON; `to_dataframe` needs pandas.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, SupportsIndex, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from attnbias.data.atomic import replacing
from attnbias.data.reading import Json
from attnbias.data.sets.palettes import palette
from attnbias.methods.engine.display.overlay import draw, enlarged, seen_part
from attnbias.methods.engine.display.segments import paint
from attnbias.methods.engine.display.sheet import draw_sheet
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.screen import Captured
from attnbias.methods.engine.text import html_frame, html_paragraph, html_picture, html_table

if TYPE_CHECKING:
    import pandas

    from attnbias.methods.engine.compare import Comparison as Compared

T = TypeVar("T")

THUMBNAIL = 128
"""Longest side of an image in a notebook's table, in pixels."""
SHOWN = 20
"""Images of a notebook's table."""
Interval = tuple[float, float]


def dataframe(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> pandas.DataFrame:
    """Rows as a table of pandas; `columns` are its columns where there may be no row.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError("to_dataframe needs pandas; install it with: pip install pandas") from None
    return pandas.DataFrame(list(rows), columns=columns)


@dataclass(frozen=True, eq=False)
class Page:
    """What a command prints, as text and for a notebook."""

    page: Captured = field(repr=False)

    def __str__(self) -> str:
        return self.page.text()

    def _repr_html_(self) -> str:
        return self.page.html()


# What a model says of images ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one image."""

    path: str
    """Its file; of an image in memory, a name."""
    scores: NDArray[np.float32]
    """Of each class (C,): its probability, by itself in multi-label work and of answers, else of a softmax; of a model
    that labels pixels, its share of them; of retrieval how well the image fits the text, higher is better (1,)."""
    classes: tuple[str, ...]
    """The names of all C classes, or answers; of retrieval the text."""
    task: str
    image: Callable[[], Image.Image] = field(repr=False)
    """Reads the image, RGB and upright."""
    question: str | None = None
    """What was asked, of a model that is asked in words."""
    label_map: NDArray[np.int64] | None = field(default=None, repr=False)
    """The class of each pixel (H, W), of a model that labels them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """In multi-label work the classes of at least 0.5, of pixels those that occur, the highest first; else the best
        class alone."""
        order = np.argsort(-self.scores, kind="stable")
        if self.task == "multilabel":
            order = order[self.scores[order] >= 0.5]
        elif self.label_map is not None:
            order = order[self.scores[order] > 0]
        else:
            order = order[:1]
        return tuple(self.classes[number] for number in order)

    def overlay(self) -> Image.Image:
        """The image with the colours of its pixels' classes over it.

        Raises:
            UsageError: the model does not label pixels.
        """
        if self.label_map is None:
            raise UsageError("the model does not label pixels; where it looks is model.attention(image).overlay()")
        return Image.fromarray(paint(np.asarray(self.image()), self.label_map, palette(self.classes)))

    def top(self, k: int = 5) -> dict[str, float]:
        """The k best classes with their probabilities, the highest first."""
        order = np.argsort(-self.scores, kind="stable")[:k]
        return {self.classes[number]: float(self.scores[number]) for number in order}

    def to_dict(self) -> Json:
        """The image, what was asked, and its scores by class."""
        asked = {} if self.question is None else {"question": self.question}
        return {"path": self.path, **asked, "scores": dict(zip(self.classes, map(float, self.scores), strict=True))}

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per class: class, score. Raises UsageError without pandas."""
        return dataframe([{"class": name, "score": score} for name, score in self.top(len(self.classes)).items()])

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {score:.3f}" for name, score in self.top(3).items())
        asked = "" if self.question is None else f"{self.question} "
        return f"Prediction({self.path}: {asked}{best}{', ...' if len(self.classes) > 3 else ''})"

    def _repr_html_(self) -> str:
        return _prediction_table([self])


@dataclass(frozen=True, eq=False)
class Predictions(Sequence[Prediction]):
    """What a model says of several images, in their order: a sequence of `Prediction`."""

    items: tuple[Prediction, ...] = field(repr=False)
    scores: NDArray[np.float32] = field(repr=False)
    """Probabilities (N, C)."""
    skipped: tuple[str, ...] = ()
    """Why each other image could not be read (with `on_bad_image="skip"`)."""

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """Those of each image."""
        return [item.labels for item in self.items]

    def top(self, k: int = 5) -> list[dict[str, float]]:
        """The k best classes of each image."""
        return [item.top(k) for item in self.items]

    def to_dict(self) -> list[Json]:
        """Each image and its scores by class."""
        return [item.to_dict() for item in self.items]

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per image, or per question about it: path, question, and a column for each class. Raises UsageError
        without pandas."""
        rows = self.to_dict()
        return dataframe([{**{k: v for k, v in row.items() if k != "scores"}, **row["scores"]} for row in rows])

    @overload
    def __getitem__(self, key: int) -> Prediction: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Prediction, ...]: ...
    def __getitem__(self, key: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.items[key]

    def __len__(self) -> int:
        return len(self.items)

    def _repr_html_(self) -> str:
        more = html_paragraph(f"{len(self) - SHOWN} more") if len(self) > SHOWN else ""
        return _prediction_table(self.items[:SHOWN]) + more


def _prediction_table(predictions: Sequence[Prediction]) -> str:
    rows = []
    for one in predictions:
        image = one.image()
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        best = ", ".join(f"{name} {score:.3f}" for name, score in one.top().items())
        name = one.path if one.question is None else f"{one.path}: {one.question}"
        rows.append([_address(image), name, ", ".join(one.labels) or "-", best])
    columns = [(name, "left") for name in ("", "image", "labels", "highest scores")]
    return html_table(columns, rows, pictures=True)


# Where a model looks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Where a model looked in one image: a map for each class that was asked for.

    Maps are by name (`maps["cat"]`) or number; `numpy.asarray(maps)` is `to_numpy()`.
    """

    path: str
    """The image's file; of an image in memory, a name."""
    names: tuple[str, ...]
    """What the K maps are of: classes, questions or priors."""
    values: NDArray[np.float32] = field(repr=False)
    """Maps (K, h, w) as the method gives them: non-negative, in units of their kind, at the network's resolution."""
    normalised: NDArray[np.float32] = field(repr=False)
    """The same within 0..1, as they are drawn."""
    scores: tuple[float | None, ...]
    """The probability of each class; None where a map is not of a class."""
    kind: str
    """The kind of map: one of `Model.maps`."""
    image: Image.Image = field(repr=False)
    """The image, RGB and upright."""
    frame: tuple[float, float, float, float]
    """The part of the image that the network saw and the maps cover: x, y, width, height as shares of its size."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(K, h, w)."""
        return self.values.shape

    def to_numpy(self) -> NDArray[np.float32]:
        """The maps (K, h, w) as the method gives them."""
        return self.values

    def overlay(self, name: str | int | None = None, *, opacity: float = 0.7, contour: bool = False) -> Image.Image:
        """Draw a map over the image, as `attnbias visualize` does: the photo's own size, at least 224 a side.

        Args:
            name: whose map, by name or number; None = the only one, or, where there are several, a sheet of all.
            opacity: strength of the map, 0..1.
            contour: ring the focus, values of at least 0.5.

        Raises:
            UsageError: there is no such map, or no such opacity.
        """
        if not 0 <= opacity <= 1:
            raise UsageError(f"opacity {opacity}: expected a number from 0 to 1")
        if name is None and len(self.names) > 1:
            drawn = [[self.overlay(number, opacity=opacity, contour=contour)] for number in range(len(self.names))]
            said = ["" if score is None else f"{score:.2f}" for score in self.scores]
            return draw_sheet(self.image, [self.kind], self.names, drawn, said)
        image = enlarged(self.image)
        heat = self.normalised[self._number(0 if name is None else name)]
        return draw(image, heat, frame=seen_part(self.frame, image), opacity=opacity, contour=contour)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the overlay (.png, .jpg, .webp ...), or the maps themselves with their names (.npz); return the path.

        Raises:
            UsageError: the file exists and `overwrite` is not set, or its ending tells no format.
        """
        content, ending = io.BytesIO(), Path(path).suffix.lower()
        if ending == ".npz":
            names, kind, frame = np.array(self.names), np.array(self.kind), np.array(self.frame)
            np.savez_compressed(content, maps=self.values, names=names, kind=kind, frame=frame)
        else:
            try:
                self.overlay().save(content, Image.registered_extensions()[ending])
            except (KeyError, OSError, ValueError):  # no image's ending, or of a format that Pillow only reads
                raise UsageError(
                    f"{path}: expected a name that ends in .png, .jpg or another image's ending, or in .npz"
                ) from None
        return _write(path, content.getvalue(), overwrite)

    def to_dict(self) -> Json:
        """All but the image, as plain values."""
        return {
            "path": self.path,
            "kind": self.kind,
            "names": list(self.names),
            "scores": list(self.scores),
            "frame": list(self.frame),
            "maps": self.values.tolist(),
        }

    def __getitem__(self, name: str | int) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self.values[self._number(name)]
        return values

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return iter(self.values)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        if copy is None:  # which NumPy 1 does not take
            return np.asarray(self.values, dtype=dtype)
        return np.array(self.values, dtype=dtype, copy=copy)

    def _number(self, name: str | int) -> int:
        number = self.names.index(name) if name in self.names else name
        if not (isinstance(number, int | np.integer) and -len(self.names) <= number < len(self.names)):
            near = did_you_mean(str(name), self.names)
            raise UsageError(f"no map of '{name}'{near}; there is: {', '.join(self.names)}")
        return number

    def _repr_png_(self) -> bytes:
        return _png(self.overlay())


class MapsOfImages(list[AttentionMaps]):
    """The maps of several images, in their order: a list of `AttentionMaps`."""

    def _repr_html_(self) -> str:
        return "".join(html_picture(_address(one.overlay()), one.path) for one in self)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The same images under each model, side by side, as one page that needs no other file."""

    html: str = field(repr=False)
    images: int
    overlays: int
    skipped: tuple[str, ...] = ()
    """Why each other image could not be read (with `on_bad_image="skip"`)."""
    out: Path | None = None
    """The folder with overlays, sheets and the page, where one was asked for."""

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the page; return its path.

        Raises:
            UsageError: the file exists and `overwrite` is not set.
        """
        return _write(path, self.html.encode(), overwrite)

    def _repr_html_(self) -> str:
        return html_frame(self.html)


# How right a model is, and where it looks -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model on one split: what `attnbias val` prints in one column."""

    content: Json = field(repr=False)
    """All of it: what `attnbias val --json` writes."""
    figures: dict[str, float | None]
    """Every figure of the column: metrics as `mAP`, others as `bias/energy` and `reliance/...`; None = not defined."""

    @property
    def model(self) -> str:
        """Which weights, in words."""
        return str(self.content["source"])

    @property
    def dataset(self) -> str:
        """The dataset; empty for published test sets, whose names are in `robustness`."""
        return str(self.content.get("dataset", ""))

    @property
    def split(self) -> str:
        """The split; empty as `dataset`."""
        return str(self.content.get("split", ""))

    @property
    def samples(self) -> int:
        """Samples that were scored."""
        return int(self.content.get("samples", 0))

    @property
    def metrics(self) -> dict[str, float]:
        """How right the model is: metric -> value, in per cent where the papers give per cent."""
        return {name: value for name, value in self.content.get("measures", {}).items() if isinstance(value, float)}

    @property
    def per_class(self) -> dict[str, dict[str, float | None]]:
        """Metrics that each class has one of: metric -> class -> value, None = not defined."""
        classes = self.content.get("classes", ())
        measures = {**self.content.get("measures", {}), **self.content.get("per_class", {})}
        lists = {name: values for name, values in measures.items() if isinstance(values, list) and name != "confusion"}
        return {
            name: dict(zip(classes, values, strict=True))
            for name, values in lists.items()
            if len(values) == len(classes)
        }

    @property
    def bias(self) -> dict[str, float | None]:
        """Where it looks, held against objects: measure -> mean over samples; empty without `bias=True`."""
        return dict(self.content.get("bias", {}).get("means", {}))

    @property
    def bias_intervals(self) -> dict[str, Interval | None]:
        """95 % intervals of `bias` over images."""
        found = self.content.get("bias", {}).get("intervals_95", {})
        return {name: None if edges is None else (edges[0], edges[1]) for name, edges in found.items()}

    @property
    def robustness(self) -> list[Json]:
        """Corrupted and published test sets and attacks, a row each."""
        return list(self.content.get("robustness", ()))


@dataclass(frozen=True, eq=False)
class Report(Page, Sequence[Evaluation]):
    """What `attnbias val` prints: a sequence of `Evaluation`, one per model and split.

    `print(report)` gives its tables. Where there is one model and one split, `metrics` and `bias` are its own.
    """

    evaluations: tuple[Evaluation, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """Those of the only evaluation. Raises UsageError where there are several."""
        return self._only().metrics

    @property
    def bias(self) -> dict[str, float | None]:
        """That of the only evaluation. Raises UsageError where there are several."""
        return self._only().bias

    def to_dict(self) -> list[Json]:
        """What `attnbias val --json` writes."""
        return [dict(one.content) for one in self.evaluations]

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per model and split: model, dataset, split, samples, and all figures. Raises UsageError without
        pandas."""
        return dataframe(
            [
                {"model": one.model, "dataset": one.dataset, "split": one.split, "samples": one.samples, **one.figures}
                for one in self.evaluations
            ]
        )

    def _only(self) -> Evaluation:
        if len(self.evaluations) != 1:
            raise UsageError(f"the report holds {len(self.evaluations)} evaluations; name one, as report[0]")
        return self.evaluations[0]

    @overload
    def __getitem__(self, key: int) -> Evaluation: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Evaluation, ...]: ...
    def __getitem__(self, key: int | slice) -> Evaluation | tuple[Evaluation, ...]:
        return self.evaluations[key]

    def __len__(self) -> int:
        return len(self.evaluations)


@dataclass(frozen=True, eq=False)
class Comparison(Page):
    """Runs side by side, from what their folders hold: what `attnbias compare` prints."""

    found: Compared = field(repr=False)
    """Runs and lines, as the engine found them."""
    runs: tuple[str, ...]
    """Their folders; the first is the reference."""
    missing: tuple[str, ...]
    """What was asked for and no run keeps, each with the command that makes it."""
    written: tuple[Path, ...]
    """Files in `out`, where that was asked for."""

    def to_dict(self) -> Json:
        """What comparison.json holds."""
        from attnbias.methods.engine.evaluation.comparison_tables import as_json

        return as_json(self.found)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per split, measure and run: value, difference to the first run, 95 % interval, p. Raises UsageError
        without pandas."""
        rows = []
        for line in self.found.lines:
            for run, value, change in zip(self.runs, line.values, line.changes, strict=True):
                low, high = (change and change.interval_95) or (None, None)
                rows.append(
                    {
                        "split": line.split,
                        "measure": line.measure,
                        "run": run,
                        "value": value,
                        "difference": change and change.difference,
                        "low_95": low,
                        "high_95": high,
                        "p": change and change.p,
                        "p_together": change and change.p_together,
                    }
                )
        names = ("split", "measure", "run", "value", "difference", "low_95", "high_95", "p", "p_together")
        return dataframe(rows, names)

    def _repr_html_(self) -> str:
        page = self.found.page
        return super()._repr_html_() + (html_frame(page.html()) if page is not None else "")


# Runs and lists -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. It stands for its folder: `attnbias.load(run)`, `attnbias.compare([run, other])`."""

    out: Path
    """Its folder: recipe.yaml, metrics.jsonl, checkpoints/."""
    method: str
    steps: int
    """Optimiser steps done."""
    best: float | None
    """The best value of the metric that decides."""
    best_step: int | None
    stopped_early: bool
    log: tuple[Json, ...] = field(repr=False)
    """The lines of metrics.jsonl: step, epoch, split and figures of each."""

    def __fspath__(self) -> str:
        return str(self.out)

    def to_dict(self) -> Json:
        """All of it as plain values."""
        return {**asdict(self), "out": str(self.out), "log": list(self.log)}

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per line of metrics.jsonl. Raises UsageError without pandas."""
        return dataframe(self.log)

    def _repr_html_(self) -> str:
        lines = [line for line in self.log if "weights" in line]  # evaluations
        columns = list(
            dict.fromkeys(name for line in lines for name in line if not isinstance(line[name], list | dict))
        )
        rows = [[_short(line.get(name, "")) for name in columns] for line in lines]
        facts = f"{self.out}: {self.method}, {self.steps} steps; best {_short(self.best)}"
        return html_paragraph(facts) + html_table([(name, "right") for name in columns], rows)


class Listing(list[T], Generic[T]):
    """A list of named rows, shown as a table in a notebook. `listing["coco"]` is the row of that name."""

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> list[T]: ...
    def __getitem__(self, key: SupportsIndex | slice | str) -> T | list[T]:
        if not isinstance(key, str):
            return super().__getitem__(key)
        names = [getattr(row, "name", "") for row in self]
        if key not in names:
            raise UsageError(f"no '{key}'{did_you_mean(key, names)}; there is: {', '.join(dict.fromkeys(names))}")
        if names.count(key) > 1:
            raise UsageError(f"several rows are called '{key}'; list those of one method, or take one by its position")
        return super().__getitem__(names.index(key))

    def to_dict(self) -> list[Json]:
        """A dictionary a row."""
        rows: list[Any] = list(self)
        return [asdict(row) for row in rows]

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per entry. Raises UsageError without pandas."""
        return dataframe(self.to_dict())

    def _repr_html_(self) -> str:
        rows = self.to_dict()
        columns = [(name, "left") for name in rows[0]] if rows else []
        return html_table(columns, [row.values() for row in rows])


def _write(path: str | os.PathLike[str], content: bytes, overwrite: bool) -> Path:
    """Write a file that is whole or not there; return its path."""
    file = Path(path)
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists; choose another name or add overwrite=True")
    with replacing(file) as to:
        to.buffer.write(content)
    return file


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _address(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(image)).decode("ascii")
