"""One `val` request: checkpoints on splits, their scores and metrics, and what was asked for beside them.

Reading order: `validate`, then `_Point`, one checkpoint on one split. Everything that can be refused is refused before
the first image is scored. A new kind of measure is one probe in its own file and one line in `probes`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from attnbias.data.atomic import replacing
from attnbias.data.datasets import ImageDataset
from attnbias.data.index import Task
from attnbias.data.published_tests import own_rules
from attnbias.data.reading import Json
from attnbias.methods.engine.bias.backgrounds import BackgroundsProbe
from attnbias.methods.engine.bias.context import ContextProbe, GroupsProbe
from attnbias.methods.engine.bias.faithfulness import FaithfulnessProbe
from attnbias.methods.engine.bias.found_groups import FoundGroupsProbe
from attnbias.methods.engine.bias.last_layer import LastLayerProbe
from attnbias.methods.engine.bias.reliance import RelianceProbe
from attnbias.methods.engine.bias.report import BiasProbe
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.cache import use_cache
from attnbias.methods.engine.evaluation.classes import CalibrationProbe, PerClassProbe
from attnbias.methods.engine.evaluation.evaluate import Evaluation, answers, write_scores
from attnbias.methods.engine.evaluation.probe import Measured, Probe, open_dataset, score
from attnbias.methods.engine.evaluation.reassessed import ReassessedProbe
from attnbias.methods.engine.evaluation.robustness import Bench, RobustnessProbe, corruptions, write_table
from attnbias.methods.engine.kernels import in_precision
from attnbias.methods.engine.launch import accelerate, place
from attnbias.methods.engine.load import Loaded, check_recipe_helps, load_asked, which_weights
from attnbias.methods.engine.maps import check_map
from attnbias.methods.engine.matching import in_classes_of_datasets
from attnbias.methods.engine.output_files import (
    BIAS_KINDS,
    RESULTS,
    ROBUSTNESS,
    SCORES,
    Target,
    check_folder,
    check_targets,
    requested,
)
from attnbias.methods.engine.priors import steered
from attnbias.methods.engine.published import on_disk, shown
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.stored_evaluations import Scores, check_storing, folder_of, make_room, store

WITHOUT_ROWS: tuple[Task, ...] = ("segmentation", "retrieval")
"""Tasks whose evaluation says nothing of a single image."""

Result = Json
"""One checkpoint on one split: what `val --json` writes and its table shows."""


def probes() -> tuple[Probe, ...]:
    """What `val` can measure beside the scores, in the order of its table."""
    return (
        ReassessedProbe(),
        PerClassProbe(),
        CalibrationProbe(),
        GroupsProbe(),
        FoundGroupsProbe(),
        LastLayerProbe(),
        ContextProbe(),
        RelianceProbe(),
        BackgroundsProbe(),
        FaithfulnessProbe(),
        RobustnessProbe(),
        BiasProbe(),
    )


def validate(request: ValRequest, models: Sequence[Loaded] = ()) -> list[Result]:
    """Evaluate every checkpoint on every split; the main process writes the files that were asked for.

    `models` are those of `request.load_from`, in its order, where they are loaded already.

    Raises:
        UsageError: a checkpoint and a set do not fit together, or a file would be replaced without `overwrite`.
    """
    _check(request)
    request = place(request)
    accelerator = accelerate(request)
    wanted = [probe for probe in probes() if probe.wanted(request)]
    if not models:
        models = [load_asked(request, request.method, source, accelerator.device) for source in request.load_from]
    models = in_classes_of_datasets(models, request.class_map, request.data_root)
    check_recipe_helps(request.recipe, models)
    models = [steered(request, each, [request.kind or each.method.default_map(each.recipe)]) for each in models]
    checkpoints = list(zip(request.load_from, models, strict=True))
    points: list[_Point] = []
    for (load_from, loaded), split in product(checkpoints, request.splits):
        dataset = open_dataset(request, loaded, split, measured=True)
        several = len(checkpoints) * len(request.splits) > 1
        suffix = f"{len(points) + 1}-{dataset.index.split}" if several else ""
        points.append(_Point(request, accelerator, load_from, loaded, dataset, split, suffix))
    _check_splits(points[: len(request.splits)])
    for point in points:
        point.check(wanted)
    if request.cache is not None:
        for point in points:
            use_cache(request.cache, point.dataset, accelerator, request.workers or 0)

    results: list[Result] = []
    with in_precision(request.amp, accelerator.device), request.finite_answers():
        for number, (load_from, loaded) in enumerate(checkpoints):
            if request.published_tests:
                bench = Bench.of(request, loaded, accelerator)
                rows = [row for name in request.published_tests for row in bench.published(name)]
                known = {"load_from": shown(load_from), "source": loaded.source, "amp": request.amp}
                results.append({**known, "robustness": rows})
            own = points[number * len(request.splits) :][: len(request.splits)]
            results += [point.measure(wanted) for point in own]
    if request.robustness_out and accelerator.is_main_process:
        amp = {} if request.amp == "no" else {"amp": request.amp}
        rows = [{"weights": r["load_from"], **amp, **row} for r in results for row in r.get("robustness", ())]
        write_table(request.robustness_out, rows)
    if request.json_file not in (None, "-") and accelerator.is_main_process:
        with replacing(Path(request.json_file)) as to:
            to.write(json.dumps(results, indent=1) + "\n")
    return results


def figures(result: Result) -> dict[str, float | None]:
    """Every figure of a result that is one number: metrics by name, those of a probe as PROBE/NAME, of robustness as
    TEST/METRIC."""
    found = {name: value for name, value in result.get("measures", {}).items() if isinstance(value, float | None)}
    for probe in probes():
        if probe.name in result:
            shown = probe.figures(result[probe.name]).items()
            found |= {f"{probe.name}/{name}": value for name, value in shown if not isinstance(value, str)}
    for row in result.get("robustness", ()):
        found |= {f"{row['test']}/{name}": value for name, value in row.items() if isinstance(value, float)}
    return found


def _check(request: ValRequest) -> None:
    """Refuse, before any work, what there is not, and what cannot or must not be written."""
    corruptions(request)
    if request.store and request.amp != "no":
        raise UsageError("--store keeps the figures that runs are compared by, in float32; leave --amp out, or --store")
    if request.store and request.limit is not None:
        raise UsageError("--store keeps the figures of whole splits; leave --limit out, or --store")
    if request.store and request.masks is not None:
        raise UsageError("--store keeps what is held against objects that people drew; use --json or --bias-out DIR")
    if request.store and request.objects is not None:
        raise UsageError("--store keeps what is held against objects of the set itself; use --json or --bias-out DIR")
    for load_from in request.load_from if request.store else ():
        if on_disk(f"{load_from}/checkpoints") is None:
            raise UsageError(
                f"--store keeps results in a run folder, and {shown(load_from)} is none; use --json or --bias-out"
            )
    files = (request.json_file, RESULTS), (request.csv_file, SCORES), (request.robustness_out, ROBUSTNESS)
    folders = [request.bias_out] if request.bias_out is not None else []
    check_targets(requested(*files), request.reads, request.overwrite, folders)
    if request.bias_out is not None:
        # Several checkpoints or splits have a folder each.
        folders = [request.bias_out, *(path for path in request.bias_out.glob("*") if path.is_dir())]
        held = [Target(folder / name, kind) for folder in folders for name, kind in BIAS_KINDS.items()]
        check_folder(request.bias_out, request.overwrite, held, request.reads)


def _check_splits(points: Sequence[_Point]) -> None:
    """Refuse splits of one checkpoint that are the same, as a role and the name of what plays it."""
    typed: dict[str, str] = {}
    for point in points:
        name = point.dataset.index.split
        if (other := typed.setdefault(name, point.split)) != point.split:
            raise UsageError(f"--split {other},{point.split}: both are the split '{name}'; name it once")


@dataclass(frozen=True)
class _Point:
    """One checkpoint on one split."""

    request: ValRequest
    accelerator: Accelerator
    load_from: str
    loaded: Loaded
    dataset: ImageDataset
    split: str
    """As it was typed: a name, or a role such as val."""
    number: str
    """Tells its files from those of the others; empty where it is the only one."""

    @property
    def weights(self) -> str:
        """Words for the weights, without the path that they were loaded from."""
        return which_weights(self.loaded.source, self.load_from)

    @property
    def map(self) -> str | None:
        """The kind of map whose bias is measured; None without --bias."""
        return (
            (self.request.kind or self.loaded.method.default_map(self.loaded.recipe))
            if self.request.measures_bias
            else None
        )

    @property
    def stored(self) -> Path:
        """Where the run keeps its evaluation of this split."""
        return folder_of(Path(self.load_from), self.dataset.index.dataset, self.dataset.index.split)

    @property
    def table(self) -> Path | None:
        """The file of --csv, with the point's number in its name."""
        file = self.request.csv_file
        if file is None:
            return None
        return file.with_name(f"{file.stem}-{self.number}{file.suffix}") if self.number else file

    def check(self, wanted: list[Probe]) -> None:
        """Refuse what cannot be measured or written here; nothing was scored yet, and nothing is changed."""
        index, table = self.dataset.index, self.table
        if table is not None and index.task in WITHOUT_ROWS:
            raise UsageError(f"--csv: an evaluation of {index.task} keeps no row per image; use --json")
        if table is not None:
            check_targets(requested((table, SCORES)), self.request.load_from, self.request.overwrite)
        if self.request.store:
            check_storing(self.stored, self.weights, self.map, self.request.overwrite)
        if self.request.kind is not None:
            check_map(self.loaded.method, self.loaded.model, self.request.kind)
        for probe in wanted:
            probe.check(self.request, self.loaded, self.dataset)

    def measure(self, wanted: list[Probe]) -> Result:
        """Score the split, run the probes, and write what was asked for."""
        request, dataset, index = self.request, self.dataset, self.dataset.index
        writes = self.accelerator.is_main_process
        storing = request.store and writes
        if storing:
            make_room(self.stored, self.weights, self.map)
        evaluation = score(request, self.loaded, dataset, self.accelerator)
        result: Result = {
            "load_from": shown(self.load_from),
            "source": self.loaded.source,
            "weights": self.weights,
            "dataset": index.dataset,
            "split": index.split,
            "samples": len(evaluation.ids),
            **({} if index.whole is None else {"drawn": index.how_drawn}),
            "skipped": evaluation.skipped,
            "decode": request.decode,
            "amp": request.amp,
            "rules": own_rules(index),
            "classes": index.classes,
            "recipe": self.loaded.recipe.model_dump(mode="json"),
            **({"recipe_yaml_differs": self.loaded.edited} if self.loaded.edited else {}),
            "measures": evaluation.measures,
            **({"class_match": self.loaded.match.content()} if self.loaded.match else {}),
        }
        if self.table is not None and writes:
            write_scores(self.table, evaluation, dataset)
        measured = Measured(
            request,
            self.loaded,
            dataset,
            self.accelerator,
            evaluation,
            stored=self.stored if storing else None,
            split=self.split,
            number=self.number,
        )
        for probe in wanted:
            content = probe.measure(measured)
            if content is not None:
                result[probe.name] = content
        if storing:
            words = dict(answers(evaluation, dataset)) if "answer" in evaluation.scores else {}
            # The attention bias has files of its own, one for each kind of map.
            kept = {name: value for name, value in result.items() if name != BiasProbe.name}
            store(self.stored, kept, _scores(evaluation, dataset), words)
        return result


def _scores(evaluation: Evaluation, dataset: ImageDataset) -> Scores | None:
    if "scores" not in evaluation.scores:
        return None
    records = [dataset.records[sample] for sample in evaluation.ids]
    attributes = [record.group for record in records if record.group]
    return Scores(
        np.array([record.path for record in records]),
        evaluation.targets,
        evaluation.scores["scores"],
        np.array(attributes) if len(attributes) == len(records) else None,
    )
