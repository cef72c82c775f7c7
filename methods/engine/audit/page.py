"""report.html: an audit and its pictures as one page that needs no other file. No torch, no network.

The order of the page is that of a report: the answer, whether the map can be trusted, checks, where it comes from,
pictures, what to try, and last how it was measured. The script of the page (display/audit.js) draws it from JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from attnbias.data.reading import Json
from attnbias.methods.engine.audit.examples import IN_CELL, says
from attnbias.methods.engine.audit.result import About, Audit, Causes, Cell, ClassRow, Figure, Finding, Sample
from attnbias.methods.engine.display.gallery import GalleryItem, View, image_json, view_json
from attnbias.methods.engine.display.html_page import html_page, short
from attnbias.methods.engine.text import html_paragraph

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

REPORT = "report.html"

IMAGE_BYTES = 2_200_000
"""Most of what images may take of the page: with its tables, a page of 1,000 classes stays below 3 MB."""

QUALITY = 82
"""Of the JPEGs."""


def audit_page(audit: Audit, pictures: Mapping[int, GalleryItem]) -> str:
    """Write the page as one HTML text.

    Args:
        pictures: position in the split -> image with its maps, those that matter most first (`draw_pictures`). What
            the page has no room for is left out, and the counts beside the pictures say so.
    """
    about = audit.about
    shown = dict(_within(pictures, IMAGE_BYTES))
    content = {
        "classes": about.classes,
        "pictures": shown,
        "about": {"facts": _facts(about), "map_words": _map_words(about), "model": about.model},
        "objects": about.measured_objects,
        "restsOn": list(dict.fromkeys(name for sentence in audit.answer for name in sentence.rests_on)),
        "trust": _plain(audit.trust),
        "checks": _plain(audit.checks),
        "figures": _plain(audit.figures),
        "scores": _plain(audit.scores),
        "quadrants": [_cell(cell, audit.samples, shown) for cell in audit.quadrants],
        "rows": [_class_row(row) for row in audit.classes],
        "causes": _causes(audit.causes),
        "findings": [_finding(finding, audit.samples, shown) for finding in audit.pictures],
        "subsets": [_parts(subset, leave_out=("samples",)) for subset in audit.subsets],
        "against": _against(audit, shown),
        "suggestions": _plain(audit.suggestions),
        "limits": audit.limits,
    }
    parts = {
        "about": html_paragraph(_headline(about)),
        "beside": "audit.json beside it has all figures.",
        "answer": "".join(html_paragraph(sentence.text.replace(" %", "\u00a0%")) for sentence in audit.answer),
    }
    return html_page("audit", f"Where {about.model} looks", content, parts)


# What was audited -----------------------------------------------------------------------------------------------------


def _headline(about: About) -> str:
    """Line 0: everything that tells this audit from another one."""
    layer = f" at {about.layer}" if about.layer else ""
    truth = f"objects: {about.truth} ({about.truth_kind})" if about.truth else "no objects"
    parts = [
        f"{about.model}, weights {about.weights_sha256[:12]}",
        f"{about.dataset}, split {about.split}",
        f"{about.images:,} of {about.images_of_split:,} images",
        f"map: {about.map}{layer}",
        truth,
        about.date,
        about.command,
    ]
    return " \u00b7 ".join(part for part in parts if part)


def _facts(about: About) -> list[tuple[str, str]]:
    """Names and values of all that is known of the audit, in words."""
    images = f"{about.images:,} of {about.images_of_split:,}" + (f": {about.drawn}" if about.drawn else "")
    left_out = "; ".join(f"{count:,} left out: {reason}" for reason, count in about.left_out.items() if count)
    measured = f"the map was held against {about.measured_objects:,} of {about.objects:,}"
    unreadable = f"{len(about.unreadable):,}: {', '.join(about.unreadable[:5])}" if about.unreadable else ""
    return [
        ("Model", about.model),
        ("Method", about.method),
        ("Backbone", about.backbone),
        ("Weights", about.source),
        ("SHA-256 of the weights", about.weights_sha256),
        ("Data", f"{about.dataset}, split {about.split}, {_task(about)}, {len(about.classes):,} classes"),
        ("Classes", _matched(about)),
        ("Images", images),
        ("Not readable", unreadable),
        ("Objects", "; ".join(part for part in (measured, left_out) if part)),
        ("What an object is", _reason(about.truth or "not known", about.truth_reason) + f" ({about.truth_kind})"),
        ("Map", _reason(about.map, about.map_reason)),
        ("Layer", _reason(about.layer or "none", about.layer_reason)),
        ("Images are made", about.preprocessing),
        ("Command", about.command),
        ("Date", about.date),
        ("Versions", ", ".join(f"{name} {version}" for name, version in about.versions.items())),
    ]


def _matched(about: About) -> str:
    """How the model's classes became the dataset's."""
    match = about.class_match
    if match is None:
        return "the dataset's own"
    missing = ", ".join(match["dataset_without_match"])
    always_wrong = f"; the model does not have, and is always wrong on: {missing}" if missing else ""
    return f"{len(match['matched']):,} of {len(about.classes):,} matched by {match['rule']}{always_wrong}"


def _task(about: About) -> str:
    return {"multilabel": "several labels per image", "singlelabel": "one label per image"}[about.task]


def _reason(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what


def _map_words(about: About) -> str:
    layer = f" at {about.layer}" if about.layer else ""
    return f"The map is {about.map}{layer}, each stretched to 0..1 by its own minimum and maximum."


# Tables ---------------------------------------------------------------------------------------------------------------


def _plain(value: object) -> object:
    """A part of the audit as JSON; figures under the names that the script knows."""
    if isinstance(value, Figure):
        return _figure(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _parts(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _number(value) if isinstance(value, float) else value


def _parts(value: DataclassInstance, leave_out: Sequence[str] = ()) -> Json:
    names = (field.name for field in fields(value))
    return {name: _plain(getattr(value, name)) for name in names if name not in leave_out}


def _figure(figure: Figure) -> Json:
    names = {"interval_95": "ci", "chance_words": "chanceWords"}
    return {names.get(name, name): value for name, value in _parts(figure).items()} | {"ci": _edges(figure)}


def _edges(figure: Figure) -> list[float] | None:
    edges = [_number(edge) for edge in figure.interval_95 or ()]
    known = [edge for edge in edges if edge is not None]
    return known if len(known) == 2 else None


def _number(value: float | None) -> float | None:
    """Rounded; None where it is not finite."""
    return short(value) if value is not None and abs(value) < float("inf") else None


def _class_row(row: ClassRow) -> list[object]:
    """A class in as few letters as can be: a page has up to thousands."""
    figures = (row.accuracy, row.average_precision, row.position_biased, row.on_object, row.context_only)
    return [row.name, row.objects, row.too_small, *map(_short_figure, figures)]


def _short_figure(figure: Figure | None) -> list[object] | None:
    if figure is None:
        return None
    edges = _edges(figure)
    return [_number(figure.value), *(edges or (None, None)), _number(figure.chance), figure.n, figure.form]


def _against(audit: Audit, shown: Mapping[int, Json]) -> Json | None:
    if audit.against is None:
        return None
    return {
        "about": {"model": audit.against.about.model, "facts": _facts(audit.against.about)},
        "rows": _plain(audit.against.rows),
        "text": audit.against.text,
        "findings": [_finding(finding, audit.samples, shown) for finding in audit.against.pictures],
    }


# Pictures -------------------------------------------------------------------------------------------------------------


def _within(pictures: Mapping[int, GalleryItem], most: int) -> Iterator[tuple[int, Json]]:
    """The pictures in their order, as long as there is room for them."""
    room = most
    for position, item in pictures.items():
        picture = _picture(item)
        views = [picture, *([picture["before"]] if "before" in picture else [])]
        room -= len(picture["picture"]) + sum(len(each["data"]) for view in views for each in view["maps"].values())
        if room < 0:
            return
        yield position, picture


def _picture(item: GalleryItem) -> Json:
    labels = _drawn_labels(item, item.views[0])
    views = [view_json(view, labels) for view in item.views]
    return {
        **image_json(item, QUALITY, labels),
        "true": item.true or (),
        **views[0],
        **({"before": views[1]} if len(views) > 1 else {}),
    }


def _drawn_labels(item: GalleryItem, view: View) -> list[int]:
    """The classes whose maps the page may show: the true ones, and the first one that is wrongly named."""
    true = item.true or ()
    wrong = [label for label in view.maps if label not in true]
    return [label for label in (*true, *wrong[:1]) if label in view.maps]


def _cell(cell: Cell, samples: Sequence[Sample], shown: Mapping[int, Json]) -> Json:
    return {
        "right": cell.right,
        "on_object": cell.on_object,
        "figure": _figure(cell.figure),
        "count": cell.count,
        "pictures": _entries(cell.samples, samples, shown),
    }


def _causes(causes: Causes) -> Json:
    properties = [_parts(entry, leave_out=("samples",)) for entry in causes.properties]
    return _parts(causes) | {"properties": properties}


def _finding(finding: Finding, samples: Sequence[Sample], shown: Mapping[int, Json]) -> Json:
    rows = [(example.sample, example.says) for example in finding.examples]
    entries = [_entry(samples[row], says) for row, says in rows if samples[row].image in shown]
    return {"title": finding.title, "how": finding.how, "examples": entries}


def _entries(rows: Sequence[int], samples: Sequence[Sample], shown: Mapping[int, Json]) -> list[Json]:
    """The first of these rows whose images the page has, each image once."""
    known = {samples[row].image: row for row in reversed(rows) if samples[row].image in shown}
    chosen = [row for row in rows if known.get(samples[row].image) == row][:IN_CELL]
    return [_entry(samples[row], says(samples[row])) for row in chosen]


def _entry(sample: Sample, words: str) -> Json:
    return {"image": sample.image, "label": sample.label if sample.label >= 0 else None, "says": words}
