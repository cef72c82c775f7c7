"""One `val` job: checkpoints on splits, their scores and measures, and what was asked for beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator

from attnbias.data.datasets import PictureDataset
from attnbias.data.index import Task
from attnbias.data.pictures import Decode
from attnbias.data.published_tests import own_rules
from attnbias.data.sets import imagenet
from attnbias.data.transforms.corruptions import SEVERITIES
from attnbias.methods.engine.bias.context import Pair, biased_pairs, group_measures, pair_measures
from attnbias.methods.engine.bias.faithfulness import measure_faithfulness
from attnbias.methods.engine.bias.objects import Truth
from attnbias.methods.engine.bias.reliance import measure_reliance
from attnbias.methods.engine.bias.report import measure_bias
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.attacks import ATTACKS
from attnbias.methods.engine.evaluation.evaluate import Evaluation, answers, evaluate, write_scores
from attnbias.methods.engine.evaluation.evaluations import ROBUSTNESS, Scores, folder_of, prepare_storing, store
from attnbias.methods.engine.evaluation.measures import real_accuracy
from attnbias.methods.engine.evaluation.robustness import Bench, Row, write_table
from attnbias.methods.engine.load import Loaded, load_run, open_split_of
from attnbias.methods.engine.published import on_disk, shown
from attnbias.weights.files import Entry

WITHOUT_ROWS: tuple[Task, ...] = ("segmentation", "retrieval")
"""Tasks whose evaluation says nothing of a single picture."""

Result = dict[str, Any]
"""One checkpoint on one split: what `val --json` writes and its table shows."""


@dataclass(frozen=True)
class Job:
    """What a person asked for; the options of `attnbias val` describe it."""

    method: str
    load_from: Sequence[str]
    splits: Sequence[str]
    recipe: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    entry: Entry | None = None
    trust: bool = False
    real_labels: bool = False
    """Also measure by ImageNet's reassessed labels."""
    bias: bool = False
    map: str | None = None
    """None = each model's own."""
    truth: Truth | None = None
    tau: float = 0.5
    bias_out: str | None = None
    context: str | None = None
    """The split that biased pairs are looked for in."""
    reliance: bool = False
    faithfulness: int | None = None
    """How many samples."""
    published_tests: Sequence[str] = ()
    """Of imagenet-c, imagenet-a, imagenet-r, imagenet-sketch."""
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name of an attack -> the fields of its strength that differ from the program's."""
    corruptions: Sequence[str] = ()
    severities: Sequence[int] = SEVERITIES
    robustness_out: str | None = None
    store: bool = False
    csv: str | None = None
    overwrite: bool = False
    data_root: str | None = None
    workers: int = 0
    batch_size: int = 64
    on_bad_image: Literal["error", "skip"] = "error"
    decode: Decode = "exact"
    """How pictures are read that are scored; maps and their truth are always exact."""


def validate(job: Job, accelerator: Accelerator) -> list[Result]:
    """Evaluate every checkpoint on every split; the main process writes the files that were asked for.

    Raises:
        UsageError: a checkpoint and a set do not fit together, or a file would be replaced without `overwrite`.
    """
    results: list[Result] = []
    pairs: list[Pair] = []
    for load_from in job.load_from:
        loaded = _load(job, load_from, accelerator)
        bench = Bench(loaded, accelerator, _root(job), job.batch_size, job.workers, job.on_bad_image)
        if job.published_tests:
            rows = [row for name in job.published_tests for row in bench.published(name)]
            results.append({"load_from": shown(load_from), "source": loaded.source, "robustness": rows})
        if job.context is not None and not pairs:
            pairs = _pairs(job, loaded, accelerator)
        for split in job.splits:
            dataset = _open(job, loaded, split)
            kind = (job.map or loaded.method.default_map(loaded.recipe)) if job.bias else None
            weights = loaded.source.removeprefix(str(Path(load_from))).strip(" ()")
            index = dataset.index
            kept = folder_of(Path(load_from), index.dataset, index.split)
            if job.store and accelerator.is_main_process:
                prepare_storing(kept, weights, kind, job.overwrite)
            number = f"{len(results) + 1}-{index.split}" if len(job.load_from) * len(job.splits) > 1 else ""
            table = _numbered(Path(job.csv), number) if job.csv else None
            if table is not None and index.task in WITHOUT_ROWS:
                raise UsageError(f"--csv: an evaluation of {index.task} keeps no row a picture; use --json")
            if table is not None and table.exists() and not job.overwrite:
                raise UsageError(f"{table} exists; choose another --csv or add --overwrite")
            reassessed = imagenet.real_labels(index) if job.real_labels else None
            if job.real_labels and reassessed is None:
                raise UsageError(
                    f"--real-labels are of ImageNet's validation pictures (ILSVRC2012_val_00000001.JPEG ...), and "
                    f"split '{index.split}' of dataset '{index.dataset}' holds others; name them with --dataset"
                )
            found = _score(job, loaded, dataset, accelerator)
            result: Result = {
                "load_from": shown(load_from),
                "source": loaded.source,
                "weights": weights,
                "dataset": index.dataset,
                "split": index.split,
                "samples": len(found.ids),
                "skipped": found.skipped,
                "decode": job.decode,
                "rules": own_rules(index),
                "classes": index.classes,
                "recipe": loaded.recipe.model_dump(mode="json"),
                "measures": found.measures,
            }
            if reassessed is not None:
                result["real"] = real_accuracy(found.scores["scores"], [reassessed[sample] for sample in found.ids])
            if index.task == "singlelabel" and all(record.group for record in dataset.records):
                groups = [dataset.records[sample].group or "" for sample in found.ids]
                result["groups"] = group_measures(found.targets, found.scores["scores"], groups)
            if job.context is not None:
                labels = (found.targets == 1).astype(np.int64)
                result["context"] = pair_measures(labels, found.scores["scores"], pairs, index.classes)
            if job.reliance:
                result["reliance"] = measure_reliance(
                    loaded, dataset, found, accelerator, truth=job.truth, batch_size=job.batch_size
                )
            if job.faithfulness is not None:
                result["faithfulness"] = measure_faithfulness(
                    loaded, dataset, found, accelerator, job.faithfulness, kind=job.map, batch_size=job.batch_size
                )
            if job.attacks or job.corruptions:
                result["robustness"] = _robustness(job, bench, split)
                if job.store and accelerator.is_main_process:
                    write_table(kept / ROBUSTNESS, result["robustness"])
            if job.store and accelerator.is_main_process:
                said = dict(answers(found, dataset)) if "answer" in found.scores else {}
                store(kept, result, _scores(found, dataset), said)
            if table is not None and accelerator.is_main_process:
                write_scores(table, found, dataset)
            if job.bias:
                report = measure_bias(
                    loaded,
                    dataset,
                    found,
                    accelerator,
                    kind=job.map,
                    truth=job.truth,
                    tau=job.tau,
                    batch_size=job.batch_size,
                )
                result["bias"] = report.content()
                folders = [kept / f"bias-{report.map}"] if job.store else []
                folders += [Path(job.bias_out) / number] if job.bias_out else []
                for folder in folders if accelerator.is_main_process else ():
                    report.write(folder, [record.path for record in dataset.records], index.classes)
            results.append(result)
    if job.robustness_out and accelerator.is_main_process:
        rows = [{"weights": r["load_from"], **row} for r in results for row in r.get("robustness", ())]
        write_table(Path(job.robustness_out), rows)
    return results


def _robustness(job: Job, bench: Bench, split: str) -> list[Row]:
    """A split as it is, under each attack, and corrupted on the fly."""
    rows = bench.clean(split)
    for name, strength in job.attacks.items():
        rows += bench.attacked(split, name, replace(ATTACKS[name], **strength))
    return rows + (bench.corrupted(split, job.corruptions, job.severities) if job.corruptions else [])


def _numbered(file: Path, number: str) -> Path:
    """The file's name, with the result's number in it where there are several."""
    return file.with_name(f"{file.stem}-{number}{file.suffix}") if number else file


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
        data_root=_root(job),
    )


def _open(job: Job, loaded: Loaded, split: str) -> PictureDataset:
    index = open_split_of(loaded, split, _root(job))
    return loaded.method.open_dataset(loaded.recipe, index, on_bad_image=job.on_bad_image, decode=job.decode)


def _score(job: Job, loaded: Loaded, dataset: PictureDataset, accelerator: Accelerator) -> Evaluation:
    return evaluate(
        loaded.method,
        loaded.model,
        dataset,
        loaded.recipe,
        accelerator,
        batch_size=job.batch_size,
        workers=job.workers,
    )


def _scores(found: Evaluation, dataset: PictureDataset) -> Scores | None:
    if "scores" not in found.scores:
        return None
    paths = np.array([dataset.records[sample].path for sample in found.ids])
    return Scores(paths, found.targets, found.scores["scores"])


def _pairs(job: Job, loaded: Loaded, accelerator: Accelerator) -> list[Pair]:
    """Classes that the first checkpoint recognises by their company, in the split that was named."""
    assert job.context is not None
    dataset = _open(job, loaded, job.context)
    if dataset.index.task != "multilabel":
        raise UsageError("--context needs a multi-label set: pairs are classes that occur together")
    found = _score(job, loaded, dataset, accelerator)
    return biased_pairs((found.targets == 1).astype(np.int64), found.scores["scores"])


def _root(job: Job) -> Path | None:
    return Path(job.data_root) if job.data_root else None
