"""`attnbias audit MODEL DATA`: where a model looks, what it relies on, and whether its map can be trusted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from attnbias.cli.options import read_request
from attnbias.cli.recipe_flags import with_recipe_flags
from attnbias.methods.engine.requests import AuditRequest
from attnbias.methods.engine.screen import Table, say, styled

if TYPE_CHECKING:
    from attnbias.methods.engine.audit.result import Audit

STYLES = {"holds": "green", "fails": "bold red", "undecided": "yellow", "not run": "dim"}


def audit(context: typer.Context, **typed: object) -> None:
    """Audit any classifier: where it looks, what it relies on, whether its map can be trusted; as one page.

    MODEL is measured on a split of DATA: scores, its map against the objects, objects and contexts taken away, and the
    map itself. Writes report.html, audit.json, classes.csv, samples.csv and worst/ into --out. Exit code 4 where a
    condition of --fail-if fails or could not be measured.
    """
    request = with_recipe_flags(read_request(AuditRequest, typed), context)
    from attnbias.methods.engine.audit.audit import audit

    found = audit(request)
    show(found)
    say(f"open {request.out / 'report.html'} in a browser")
    if found.exit_code:
        sys.exit(found.exit_code)


def show(found: Audit) -> None:
    """The trust in the map, the answer, and the checks."""
    from attnbias.methods.engine.audit.files import in_words

    about = found.about
    say(
        f"{about.source} on {about.dataset}/{about.split}: {about.images} images, {about.measured_objects} of "
        f"{about.objects} objects; map {about.map}{f' at {about.layer}' if about.layer else ''}"
    )
    if about.truth_kind == "estimated":
        say(f"{about.truth_reason}; figures of where it looks and what it relies on are estimates")
    say(found.trust.text, style="bold" if found.trust.verdict == "fails" else "")
    say(*(sentence.text for sentence in found.answer))
    table = Table("check", "state", "figure")
    for check in found.checks:
        table.row(check.says, styled(check.state, STYLES[check.state]), in_words(check))
    table.show()
    for each in found.suggestions:
        say(f"try: {each.text}", f"     {each.command}")
