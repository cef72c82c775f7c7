"""`attnbias predict`: the classes of a person's own images, by a checkpoint that says what it is."""

from __future__ import annotations

import sys

import typer

from attnbias.cli.options import read_request
from attnbias.cli.recipe_flags import with_recipe_flags
from attnbias.methods.engine.requests import PredictRequest
from attnbias.methods.engine.screen import say, say_json


def predict(context: typer.Context, **typed: object) -> None:
    """Say what a model says of your own images: their classes, the class of each pixel, answers to questions about
    them, or which of them a text is about. The method is read from the checkpoint.

    Flags of its recipe go before what the checkpoint says, as in val; attnbias val METHOD --help lists them.
    """
    request = with_recipe_flags(read_request(PredictRequest, typed), context)
    from attnbias.methods.engine.launch import launch, place

    if code := launch(run_job, place(request)):
        sys.exit(code)


def run_job(text: str) -> None:
    """Predict as one process; `text` is the request's JSON."""
    from attnbias.methods.engine.launch import is_main
    from attnbias.methods.engine.prediction.predict import predict

    request = PredictRequest.from_json(text)
    found = predict(request)
    if not is_main():
        return
    if request.json_file == "-":
        say_json(found.content())
    else:
        for line in found.lines():
            say(line)
    for line in found.found.skipped:
        say(f"left out: {line}", error=True)
