"""`attnbias audit`: one model on one set, measured, judged and written down.

Reading order: `audit`, then what is opened, what is said of it, and the other model. Everything that can be refused is
refused before the first image is scored; the folder is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from attnbias.data.atomic import replacing
from attnbias.data.published_tests import own_rules
from attnbias.methods.engine.audit.against import against
from attnbias.methods.engine.audit.answer import answer, limits, suggestions
from attnbias.methods.engine.audit.checks import Condition, checks
from attnbias.methods.engine.audit.examples import choose
from attnbias.methods.engine.audit.figures import SCORES, Table, classes, precision_figure, quadrants, subsets
from attnbias.methods.engine.audit.files import WRITTEN, junit, markdown, write_files
from attnbias.methods.engine.audit.measures import BY_NAME, MEASURES, SWAPPED
from attnbias.methods.engine.audit.measuring import MeasuredModel, measure
from attnbias.methods.engine.audit.opening import (
    AuditedModel,
    check_models,
    command_of,
    drawn,
    layer_of,
    map_reason,
    prepared,
    subjects,
    versions,
    weights_digest,
)
from attnbias.methods.engine.audit.page import REPORT, audit_page
from attnbias.methods.engine.audit.pairs_and_groups import groups, pairs
from attnbias.methods.engine.audit.pictures import draw_pictures
from attnbias.methods.engine.audit.result import About, Audit, Causes, Figure, Group, Pair
from attnbias.methods.engine.audit.trust import judge
from attnbias.methods.engine.display.inference import Column
from attnbias.methods.engine.launch import accelerate, place
from attnbias.methods.engine.load import Loaded, input_words
from attnbias.methods.engine.output_files import AUDIT_JUNIT, AUDIT_MARKDOWN, check_targets, requested
from attnbias.methods.engine.output_folder import output_folder
from attnbias.methods.engine.requests import AuditRequest
from attnbias.methods.engine.statistics import Estimate, mean_precision


def audit(request: AuditRequest, models: Sequence[Loaded] = (), *, write: bool = True) -> Audit:
    """Audit a model, and write the folder `request.out` unless `write` says not to.

    `models` are those of `request.load_from` and `request.against`, where they are loaded already.

    Raises:
        UsageError: something asked for cannot be had, or would replace what is not the command's own.
        DataError, WeightsError: the set or a checkpoint cannot be read.
    """
    asked = [Condition.of(each) for each in request.fail_if]
    files = requested((request.junit, AUDIT_JUNIT), (request.markdown, AUDIT_MARKDOWN))
    reads = [request.load_from, *([request.against] if request.against else [])]
    check_targets(files, reads, request.overwrite, [request.out] if write else [])
    kept = output_folder(request.out, request.overwrite, WRITTEN) if write else nullcontext()
    with kept as folder, request.finite_answers():
        request = place(request)
        if not models:
            check_models(request)
        accelerator = accelerate(request)
        asked_of = subjects(request, prepared(request), models, accelerator.device)
        index = drawn(request, asked_of[0].loaded)
        measured = [measure(each.request, each.loaded, index, accelerator) for each in asked_of]
        found = _judged(asked_of, measured, asked, accelerator.device)
        if folder is not None:
            write_files(found, folder)
            columns = [Column(each.loaded.source, each.loaded, each.map, None) for each in measured]
            page = audit_page(found, draw_pictures(found, measured[0].dataset, columns, folder))
            (folder / REPORT).write_text(page, encoding="utf-8")
    for path, text in ((request.junit, junit), (request.markdown, markdown)):
        if path is not None:
            with replacing(path) as file:
                file.write(text(found))
    return found


def _judged(
    models: Sequence[AuditedModel],
    measured: Sequence[MeasuredModel],
    asked: Sequence[Condition],
    device: object,
) -> Audit:
    """All that is computed from what was measured."""
    subject, own = models[0], measured[0]
    request, names = subject.request, own.loaded.classes
    about = _about(subject, own, str(device))
    table = Table(own.samples, about.truth_kind)
    precisions = _precisions(own)
    figures = _figures(table, own)
    causes = _causes(table, own, names)
    worst = next((group.accuracy for group in causes.groups if group.worst), None)
    if worst is not None:
        measure_of = BY_NAME["worst_group_accuracy"]
        figures["worst_group_accuracy"] = replace(worst, name=measure_of.name, words=measure_of.words)
    trust = judge(figures, own.not_run.get("trust", ""), agrees_with=own.agrees_with)
    found = checks(asked, list(figures.values()), causes, own.not_run)
    cells = quadrants(table)
    other = None
    if len(models) > 1:
        before = _about(models[1], measured[1], str(device))
        both = (_precision(measured[1]), _precision(own)) if about.task == "multilabel" else None
        table_before, maps = Table(measured[1].samples, before.truth_kind), _other_maps(own, measured[1])
        other = against(table_before, table, before, before.model, both, names, maps)
    sampled = int((~np.isnan(table.column("agreement"))).sum())
    return Audit(
        about=about,
        answer=answer(about, figures, causes, other),
        trust=trust,
        checks=found,
        figures=tuple(figures[measure.name] for measure in MEASURES if measure.name in figures),
        scores=tuple(figures[name] for name in SCORES if name in figures),
        quadrants=cells,
        classes=classes(table, names, precisions),
        causes=causes,
        subsets=subsets(table),
        pictures=choose(own.samples, cells, causes, names),
        against=other,
        suggestions=suggestions(about, subject.typed, request.data, trust, found, causes, request.limit),
        limits=limits(about, request.tau, sampled, own.agrees_with, own_rules(own.dataset.index)),
        samples=own.samples,
    )


def _other_maps(own: MeasuredModel, before: MeasuredModel) -> str:
    """A sentence, where the maps of two models are different things."""
    method, other = own.loaded.method, before.loaded.method
    if method.same_map(own.map, other, before.map):
        return ""
    return (
        f" Where they look is not compared: their own maps are different things ({own.map} of {method.name}, "
        f"{before.map} of {other.name}); --map gradcam is one for both."
    )


def _figures(table: Table, own: MeasuredModel) -> dict[str, Figure]:
    """The figures of the whole that are there, by name."""
    found = {each.name: figure for each in MEASURES if each.over and (figure := table.figure(each)) is not None}
    precision = precision_figure(_precision(own), len(own.evaluation.ids))
    return found | ({precision.name: precision} if precision is not None else {})


def _precision(own: MeasuredModel) -> Estimate | None:
    targets = own.evaluation.targets
    return mean_precision(targets, own.evaluation.scores["scores"]) if targets.ndim == 2 else None


def _precisions(own: MeasuredModel) -> list[Estimate | None]:
    """The average precision of each class of a multi-label set."""
    targets, scores = own.evaluation.targets, own.evaluation.scores["scores"]
    if targets.ndim == 1:
        return []
    return [mean_precision(targets[:, [number]], scores[:, [number]]) for number in range(targets.shape[1])]


def _causes(table: Table, own: MeasuredModel, names: Sequence[str]) -> Causes:
    targets, not_run = own.evaluation.targets, dict[str, str]()
    found_pairs: tuple[Pair, ...] = ()
    found_groups: tuple[Group, ...] = ()
    if targets.ndim == 1:
        not_run["pairs"] = "a single-label set has one class an image"
    else:
        found_pairs = pairs(table, targets, own.evaluation.ids, names)
    if any(sample.group for sample in own.samples):
        found_groups = groups(table, names)
    else:
        not_run["groups"] = "images of this set have no attribute (group) beside their labels"
    swapped = [table.figure(each) for each in MEASURES if each.over.startswith(SWAPPED)]
    if "backgrounds" in own.not_run:
        not_run["backgrounds"] = own.not_run["backgrounds"]
    return Causes(
        found_pairs, found_groups, own.properties, tuple(each for each in swapped if each is not None), not_run
    )


def _about(subject: AuditedModel, own: MeasuredModel, device: str) -> About:
    """Line 0."""
    request, loaded, index = subject.request, own.loaded, own.dataset.index
    layer, layer_reason = layer_of(loaded, own.map, request.layer)
    estimated = own.truth is not None and own.truth.kind == "estimated"
    table = Table(own.samples)
    return About(
        model=" ".join(subject.typed[:1]),
        source=loaded.source,
        weights_sha256=weights_digest(loaded),
        method=loaded.method.name,
        backbone=str(getattr(loaded.recipe, "backbone", "") or ""),
        map=own.map,
        map_reason=map_reason(request, loaded, own.map),
        layer=layer,
        layer_reason=layer_reason,
        dataset=index.dataset,
        split=index.split,
        truth="masks" if estimated else own.truth.kind if own.truth else None,
        truth_reason=(own.truth.reason or "") if own.truth else own.truth_missing,
        truth_kind="estimated" if estimated else "measured",
        task="multilabel" if loaded.task == "multilabel" else "singlelabel",
        classes=loaded.classes,
        images=len(own.evaluation.ids),
        images_of_split=index.whole or len(index.records),
        drawn=index.how_drawn,
        objects=int(table.known.sum()),
        measured_objects=int((~np.isnan(table.column("position_biased"))).sum()),
        left_out=own.left_out,
        unreadable=tuple(own.evaluation.skipped),
        preprocessing=input_words(loaded.method, loaded.recipe),
        command=command_of(request),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(device),
        class_match=loaded.match.content() if loaded.match else None,
    )
