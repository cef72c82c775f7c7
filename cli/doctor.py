"""`attnbias doctor`: whether this machine is ready, one line per finding."""

from __future__ import annotations

from dataclasses import asdict

import typer

from attnbias.cli.options import read_request
from attnbias.methods.engine.requests import DoctorRequest
from attnbias.methods.engine.screen import Table, say_json, styled

STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(**typed: object) -> None:
    """Look at packages, devices, memory and folders, and say what would keep a run from working.

    A note keeps nothing from running. With a problem the exit code is 3: something is missing or damaged.
    """
    request = read_request(DoctorRequest, typed)
    from attnbias.methods.engine.doctor import doctor

    found = doctor(request.data_root, request.network)
    if request.as_json:
        say_json([asdict(each) for each in found])
    else:
        table = Table("", "found", "verdict", "what to do")
        for each in found:
            table.row(each.name, each.value, styled(each.verdict, STYLES[each.verdict]), each.advice)
        table.show()
    if any(each.verdict == "problem" for each in found):
        raise typer.Exit(3)
