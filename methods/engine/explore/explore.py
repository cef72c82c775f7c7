"""`attnbias explore`: open models and images, and serve the page on which they are tried by hand.

Reading order: `explore`, then what the page asks for (`_Page`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from typing import NamedTuple, Self, TypeVar

import torch
from accelerate import Accelerator
from PIL import Image
from pydantic import Field

from attnbias.data.errors import DataError
from attnbias.data.images import decode_image
from attnbias.data.reading import Json, in_words, parse_json
from attnbias.data.registry import dataset_folder
from attnbias.methods.engine.display.gallery import thumbnail
from attnbias.methods.engine.display.html_page import html_page, jpeg_address
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.explore.images import FILLS, Fill, HeldImages, paint_over, png
from attnbias.methods.engine.explore.server import BYTES, JSON, PageServer, Route
from attnbias.methods.engine.explore.subject import Asked, Sent, Subject
from attnbias.methods.engine.given_images import GivenImage
from attnbias.methods.engine.launch import accelerate, place
from attnbias.methods.engine.load import Loaded, check_recipe_helps, load_asked, owner
from attnbias.methods.engine.own_images import find_images, say_how_made, say_how_read
from attnbias.methods.engine.published import short_name
from attnbias.methods.engine.requests import ExploreRequest, PredictRequest
from attnbias.methods.engine.screen import say

S = TypeVar("S", bound=Sent)

LARGEST_IMAGE, LARGEST_QUESTION = 64 << 20, 16 << 20
"""Bytes of the largest image that the page may send, and of the largest request beside it: a mask is in it."""

BEGIN_WITH = 48
"""Images to begin with that the page shows."""

POLL = 0.1
"""Seconds after which an end is noticed."""

THUMBNAIL = 160
"""Longest side of these, in pixels."""


class Exploration:
    """The page while it is served, by threads of this process; `close` ends it, as does the end of a `with` block."""

    def __init__(self, server: PageServer, subjects: Sequence[Subject]) -> None:
        self.url = server.url
        """Where it is."""
        self._server, self._subjects, self._ended = server, subjects, Event()
        Thread(target=server.serve_forever, args=(POLL,), daemon=True).start()

    def wait(self) -> None:
        """Serve until something stops this: Ctrl-C, or `close` in another thread."""
        self._ended.wait()

    def close(self) -> None:
        """End it: what a model is being asked is finished first."""
        if self._ended.is_set():
            return
        self._server.shutdown()
        self._server.server_close()
        for lock in {subject.lock for subject in self._subjects}:
            lock.acquire()  # for good: who still waits for it is not answered any more
        self._ended.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Exploration({self.url})"


def explore(request: ExploreRequest, models: Sequence[Loaded] = (), images: Sequence[GivenImage] = ()) -> Exploration:
    """Serve the page, and return at once.

    `models` are the request's, where they are loaded already; `images` are shown in the place of its paths.

    Raises:
        UsageError: something asked for cannot be had, or nothing can be served at the address.
        DataError, WeightsError: an image (with "error") or a model cannot be read.
    """
    request = place(request)
    machine = place(PredictRequest.of({"load_from": request.load_from, "paths": [], "device": request.device}))
    accelerator = accelerate(request)
    subjects = _subjects(request, models, machine, accelerator)
    page = _Page(subjects, _beginnings(request, images))
    routes = {
        "/open": Route(BYTES, LARGEST_IMAGE, page.open),
        "/begin": Route(JSON, LARGEST_QUESTION, page.begin),
        "/paint": Route(JSON, LARGEST_QUESTION, page.paint),
        "/look": Route(JSON, LARGEST_QUESTION, page.look),
        "/png": Route(JSON, LARGEST_QUESTION, page.png),
    }
    server = PageServer(request.host, request.port, page.html(), routes)
    if not server.is_local:
        say(
            f"warning: {server.url} is not only for this machine: whoever reaches it sees the images that it was "
            "started with, and can ask its models; leave --host out to keep it to yourself",
            error=True,
        )
    return Exploration(server, subjects)


def _subjects(
    request: ExploreRequest, models: Sequence[Loaded], machine: PredictRequest, accelerator: Accelerator
) -> list[Subject]:
    asked = [request, *(request.another(source) for source in request.beside)]
    found: list[Subject] = []
    locks: dict[int, Lock] = {}
    for number, each in enumerate(asked):
        loaded = models[number] if number < len(models) else _loaded(each, accelerator.device)
        name = short_name(each.load_from)
        taken = sum(subject.name.split(" #")[0] == name for subject in found)
        folder = dataset_folder(loaded.recipe.dataset, request.data_root)
        name += f" #{taken + 1}" if taken else ""
        lock = locks.setdefault(id(loaded.model), Lock())
        found.append(Subject(name, loaded, folder, machine, accelerator, lock))
        say_how_made(loaded)
    return found


def _loaded(request: ExploreRequest, device: torch.device) -> Loaded:
    loaded = load_asked(request, owner(request), request.load_from, device)
    check_recipe_helps(request.recipe, [loaded])
    return loaded


class _Beginning(NamedTuple):
    """One of the images that the page begins with."""

    name: str
    read: Callable[[], Image.Image]
    """RGB and upright; read again when it is chosen."""
    picture: str

    @classmethod
    def of(cls, name: str, read: Callable[[], Image.Image]) -> _Beginning:
        """With a small picture of it."""
        return cls(name, read, jpeg_address(thumbnail(read(), THUMBNAIL)))


def _beginnings(request: ExploreRequest, images: Sequence[GivenImage]) -> list[_Beginning]:
    """As many of the images that were given or typed as the page shows."""
    if not images:
        found = find_images(request.paths).images
        images = [GivenImage(name, path) for name, path in found]
    shown_first = images[:BEGIN_WITH]
    say_how_read([image.source for image in shown_first if isinstance(image.source, Path)])
    if len(shown_first) < len(images):
        say(f"the page begins with the first {BEGIN_WITH} of {len(images):,} images; drop others on it", error=True)
    kept = []
    for image in shown_first:
        try:
            kept.append(_Beginning.of(image.name, image.read))
        except DataError as error:
            if request.on_bad_image == "error":
                raise
            say(f"left out: {error}", error=True)
    return kept


# What the page asks for -----------------------------------------------------------------------------------------------


class _OneOfBegin(Sent):
    number: int = Field(ge=0)


class _Kept(Sent):
    image: str


class _Painted(Sent):
    image: str
    mask: str
    """A PNG in base64."""
    fill: Fill


class _Page:
    """What is behind the page: its models, the images that it begins with, and those that are held."""

    def __init__(self, subjects: Sequence[Subject], images: Sequence[_Beginning]) -> None:
        self.subjects, self.images, self.held = subjects, images, HeldImages()

    def html(self) -> str:
        """The page itself."""
        content = {
            "models": [subject.content() for subject in self.subjects],
            "images": [{"name": image.name, "picture": image.picture} for image in self.images],
            "fills": list(FILLS),
            "largest": LARGEST_IMAGE,
        }
        return html_page("explore", "Try it by hand", content, served=True)

    def open(self, body: bytes) -> Json:
        """An image that was dropped on the page."""
        return self.held.add(decode_image(body, "this file")).content()

    def begin(self, body: bytes) -> Json:
        """One of the images that the page began with."""
        number = _sent(_OneOfBegin, body).number
        if number >= len(self.images):
            raise UsageError(f"the page began with {len(self.images)} images")
        return self.held.add(self.images[number].read()).content()

    def paint(self, body: bytes) -> Json:
        """An image with a part of it painted over: another image."""
        asked = _sent(_Painted, body)
        try:
            mask = base64.b64decode(asked.mask, validate=True)
        except (binascii.Error, ValueError):
            raise UsageError("the painted mask is not base64") from None
        return self.held.add(*paint_over(self.held[asked.image], mask, asked.fill)).content()

    def look(self, body: bytes) -> Json:
        """What a model says of an image."""
        asked = _sent(Asked, body)
        if asked.model >= len(self.subjects):
            raise UsageError(f"the page has {len(self.subjects)} models")
        return self.subjects[asked.model].look(self.held[asked.image].image, asked)

    def png(self, body: bytes) -> bytes:
        """An image as its file, as models were asked about it."""
        return png(self.held[_sent(_Kept, body).image].image)


def _sent(kind: type[S], body: bytes) -> S:
    """What the page sent.

    Raises:
        UsageError: something else sent it.
    """
    try:
        return kind.model_validate(parse_json(body.decode()))
    except ValueError as error:
        raise UsageError(f"this is not what the page sends: {in_words(error)}") from None
