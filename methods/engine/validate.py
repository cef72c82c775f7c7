"""One `val` job: checkpoints on splits, their scores and metrics, and what was asked for beside them.

Reading order: `validate`, then `_Point`, one checkpoint on one split. Everything that can be refused is refused before
the first image is scored. A new kind of measure is one probe in its own file and one line in `probes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from attnbias.data.datasets import PictureDataset
from attnbias.data.index import Task
from attnbias.data.published_tests import own_rules
from attnbias.data.reading import Json
from attnbias.methods.engine.bias.context import ContextProbe, GroupsProbe
from attnbias.methods.engine.bias.faithfulness import FaithfulnessProbe
from attnbias.methods.engine.bias.reliance import RelianceProbe
from attnbias.methods.engine.bias.report import BiasProbe
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.evaluate import Evaluation, answers, write_scores
from attnbias.methods.engine.evaluation.job import Job
from attnbias.methods.engine.evaluation.probe import Measured, Probe, open_dataset, score
from attnbias.methods.engine.evaluation.reassessed import ReassessedProbe
from attnbias.methods.engine.evaluation.robustness import Bench, RobustnessProbe, write_table
from attnbias.methods.engine.load import Loaded, load_run
from attnbias.methods.engine.published import on_disk, shown
from attnbias.methods.engine.stored_evaluations import Scores, check_storing, folder_of, make_room, store
from attnbias.methods.engine.targets import SCORES, check_targets, requested

WITHOUT_ROWS: tuple[Task, ...] = ("segmentation", "retrieval")
"""Tasks whose evaluation says nothing of a single image."""

Result = Json
"""One checkpoint on one split: what `val --json` writes and its table shows."""


def probes() -> tuple[Probe, ...]:
    """What `val` can measure beside the scores, in the order of its table."""
    return (
        ReassessedProbe(),
        GroupsProbe(),
        ContextProbe(),
        RelianceProbe(),
        FaithfulnessProbe(),
        RobustnessProbe(),
        BiasProbe(),
    )


def validate(job: Job, accelerator: Accelerator) -> list[Result]:
    """Evaluate every checkpoint on every split; the main process writes the files that were asked for.

    Raises:
        UsageError: a checkpoint and a set do not fit together, or a file would be replaced without `overwrite`.
    """
    wanted = [probe for probe in probes() if probe.wanted(job)]
    checkpoints = [(load_from, _load(job, load_from, accelerator)) for load_from in job.load_from]
    pairs = [(load_from, loaded, split) for load_from, loaded in checkpoints for split in job.splits]
    points = {}
    for place, (load_from, loaded, split) in enumerate(pairs, start=1):
        dataset = open_dataset(job, loaded, split)
        number = f"{place}-{dataset.index.split}" if len(pairs) > 1 else ""
        points[load_from, split] = _Point(job, accelerator, load_from, loaded, dataset, split, number)
    for point in points.values():
        point.check(wanted)

    results: list[Result] = []
    for load_from, loaded in checkpoints:
        if job.published_tests:
            bench = Bench.of(job, loaded, accelerator)
            rows = [row for name in job.published_tests for row in bench.published(name)]
            results.append({"load_from": shown(load_from), "source": loaded.source, "robustness": rows})
        results += [points[load_from, split].measure(wanted) for split in job.splits]
    if job.robustness_out and accelerator.is_main_process:
        rows = [{"weights": r["load_from"], **row} for r in results for row in r.get("robustness", ())]
        write_table(Path(job.robustness_out), rows)
    return results


@dataclass(frozen=True)
class _Point:
    """One checkpoint on one split."""

    job: Job
    accelerator: Accelerator
    load_from: str
    loaded: Loaded
    dataset: PictureDataset
    split: str
    """As it was typed: a name, or a role such as val."""
    number: str
    """Tells its files from those of the others; empty where it is the only one."""

    @property
    def weights(self) -> str:
        """Words for the weights, without the path that they were loaded from."""
        return self.loaded.source.removeprefix(str(Path(self.load_from))).strip(" ()")

    @property
    def map(self) -> str | None:
        """The kind of map whose bias is measured; None without --bias."""
        return (self.job.map or self.loaded.method.default_map(self.loaded.recipe)) if self.job.bias else None

    @property
    def stored(self) -> Path:
        """Where the run keeps its evaluation of this split."""
        return folder_of(Path(self.load_from), self.dataset.index.dataset, self.dataset.index.split)

    @property
    def table(self) -> Path | None:
        """The file of --csv, with the point's number in its name."""
        if self.job.csv is None:
            return None
        file = Path(self.job.csv)
        return file.with_name(f"{file.stem}-{self.number}{file.suffix}") if self.number else file

    def check(self, wanted: list[Probe]) -> None:
        """Refuse what cannot be measured or written here; nothing was scored yet, and nothing is changed."""
        index, table = self.dataset.index, self.table
        if table is not None and index.task in WITHOUT_ROWS:
            raise UsageError(f"--csv: an evaluation of {index.task} keeps no row a picture; use --json")
        if table is not None:
            check_targets(requested((table, SCORES)), self.job.load_from, self.job.overwrite)
        if self.job.store:
            check_storing(self.stored, self.weights, self.map, self.job.overwrite)
        for probe in wanted:
            probe.check(self.job, self.dataset)

    def measure(self, wanted: list[Probe]) -> Result:
        """Score the split, run the probes, and write what was asked for."""
        job, dataset, index = self.job, self.dataset, self.dataset.index
        writes = self.accelerator.is_main_process
        storing = job.store and writes
        if storing:
            make_room(self.stored, self.weights, self.map)
        found = score(job, self.loaded, dataset, self.accelerator)
        result: Result = {
            "load_from": shown(self.load_from),
            "source": self.loaded.source,
            "weights": self.weights,
            "dataset": index.dataset,
            "split": index.split,
            "samples": len(found.ids),
            "skipped": found.skipped,
            "decode": job.decode,
            "rules": own_rules(index),
            "classes": index.classes,
            "recipe": self.loaded.recipe.model_dump(mode="json"),
            "measures": found.measures,
        }
        if self.table is not None and writes:
            write_scores(self.table, found, dataset)
        measured = Measured(
            job,
            self.loaded,
            dataset,
            self.accelerator,
            found,
            stored=self.stored if storing else None,
            split=self.split,
            number=self.number,
        )
        for probe in wanted:
            content = probe.measure(measured)
            if content is not None:
                result[probe.name] = content
        if storing:
            words = dict(answers(found, dataset)) if "answer" in found.scores else {}
            # The attention bias has files of its own, one for each kind of map.
            kept = {name: value for name, value in result.items() if name != BiasProbe.name}
            store(self.stored, kept, _scores(found, dataset), words)
        return result


def _load(job: Job, load_from: str, accelerator: Accelerator) -> Loaded:
    if job.store and on_disk(f"{load_from}/checkpoints") is None:
        raise UsageError(
            f"--store keeps results in a run folder, and {shown(load_from)} is none; use --json or --bias-out"
        )
    return load_run(
        job.method,
        load_from,
        job.fields,
        accelerator.device,
        recipe_name=job.recipe,
        entry=job.entry,
        trust=job.trust,
        data_root=job.root,
    )


def _scores(found: Evaluation, dataset: PictureDataset) -> Scores | None:
    if "scores" not in found.scores:
        return None
    paths = np.array([dataset.records[sample].path for sample in found.ids])
    return Scores(paths, found.targets, found.scores["scores"])
