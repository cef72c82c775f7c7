"""`attnbias visualize METHOD`: where models look, as overlays, one gallery page and raw maps.

No postponed annotations here: a command's options quote its method, which only exists inside the closure.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from attnbias.cli.options import per_method, typed_fields, with_recipe_options
from attnbias.cli.paths import find_pictures, output_folder, say_how_read
from attnbias.cli.shared import DataRoot, Device, OnBadImage, Overwrite, TrustCheckpoint, Weights, recipe_option
from attnbias.methods import METHODS
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.screen import say, waiting_bar
from attnbias.methods.engine.types import Fields

if TYPE_CHECKING:
    from attnbias.methods.engine.display.look import Column, Photo, Seen

BATCH = 16
"""Pictures shown to a model at once."""

SPLIT_LIMIT = 48
"""Pictures of a split that are drawn where --limit says nothing."""


WRITTEN = ("overlays", "panels", "segments", "sheets", "maps.npz", "gallery.html")
"""All that this command writes, and all that --overwrite replaces."""


@dataclass(frozen=True)
class Request:
    """What a person asked to see: the options of the command, which are described there."""

    method: Description
    load_from: list[str]
    paths: list[Path]
    recipe: str | None
    fields: Fields
    split: str
    limit: int | None
    top: int | None
    classes: str | None
    questions: list[str]
    kinds: list[str]
    heads: list[int]
    npz: bool
    normalisation: str
    style: Literal["blend", "published"]
    opacity: float
    boxes: bool
    contour: bool
    weights: str | None
    trust: bool
    data_root: Path | None
    device: str | None
    on_bad_image: Literal["error", "skip"]


class Plan(NamedTuple):
    """What is done: how pictures are read and looked at, and what their maps are of."""

    names: Sequence[str]
    """Of classes or questions, by number; questions are added as pictures are looked at."""
    source: str
    """Where the pictures come from, in words."""
    readers: "list[Callable[[], Photo]]"
    see: "Callable[[list[Photo]], list[Seen]]"


def _command(method: Description) -> Callable[..., None]:
    maps = dict(method.maps) if method.reads_texts else {**method.maps, "gradcam": "Grad-CAM"}
    kinds = "; ".join(f"{name} = {text.rstrip('.')}" for name, text in maps.items())

    def command(
        load_from: Annotated[
            list[str],
            typer.Option(
                "--load-from",
                help="A run folder, .safetensors or published file; repeat to compare, METHOD:FILE for another method.",
            ),
        ],
        paths: Annotated[
            list[Path] | None,
            typer.Argument(metavar="PATH", help="Pictures or folders of them. None: a split of the dataset."),
        ] = None,
        recipe: Annotated[
            str | None,
            recipe_option(method, "Named recipe for what a published file does not tell (lam, normalisation)."),
        ] = None,
        split: Annotated[str, typer.Option("--split", help="Split of the dataset.")] = "val",
        limit: Annotated[
            int | None,
            typer.Option("--limit", min=1, help="Only the first N pictures.", show_default=f"{SPLIT_LIMIT} of a split"),
        ] = None,
        top: Annotated[
            int | None,
            typer.Option(
                "--top",
                min=1,
                help="Look at all, draw only the N pictures whose first map (before normalisation) peaks highest.",
            ),
        ] = None,
        classes: Annotated[
            str | None,
            typer.Option(
                "--classes",
                help="Classes to draw, names or numbers, comma-separated.",
                show_default="true and predicted ones",
            ),
        ] = None,
        question: Annotated[
            list[str] | None,
            typer.Option(
                "--question",
                help="What to ask of every picture (or a hypothesis, or a caption); repeat for several.",
                show_default="a split's own texts",
                hidden=not method.reads_texts,
            ),
        ] = None,
        kind: Annotated[
            list[str] | None,
            typer.Option(
                "--map",
                help=f"{kinds}. Repeat for several.",
                show_default=" and ".join(method.default_maps(next(iter(method.recipes.values())).recipe)),
                autocompletion=lambda: list(maps),
            ),
        ] = None,
        head: Annotated[
            list[int] | None,
            typer.Option("--head", min=0, help="One head, from 0; repeat for several.", show_default="all together"),
        ] = None,
        out: Annotated[Path, typer.Option("--out", help="Folder for what is written.")] = Path("gallery"),
        npz: Annotated[bool, typer.Option("--npz", help="Also write the raw maps, as maps.npz.")] = False,
        normalisation: Annotated[
            Literal["minmax", "max"],
            typer.Option("--normalisation", help="Stretch each map between its extremes, or divide by its maximum."),
        ] = "minmax",
        style: Annotated[
            Literal["blend", "published"],
            typer.Option("--style", help="Overlays blended at full size, or 224 x 224 as CSRA's program draws them."),
        ] = "blend",
        opacity: Annotated[float, typer.Option("--opacity", min=0, max=1, help="Strength of the map.")] = 0.7,
        boxes: Annotated[bool, typer.Option("--boxes/--no-boxes", help="Annotated boxes of the class.")] = True,
        contour: Annotated[bool, typer.Option("--contour", help="Ring the focus, values of at least 0.5.")] = False,
        weights: Weights = None,
        trust_checkpoint: TrustCheckpoint = False,
        data_root: DataRoot = None,
        device: Device = None,
        on_bad_image: OnBadImage = "error",
        overwrite: Overwrite = False,
        **fields: Any,
    ) -> None:
        request = Request(
            method=method,
            load_from=load_from,
            paths=paths or [],
            recipe=recipe,
            fields=typed_fields(method, fields),
            split=split,
            limit=limit,
            top=top,
            classes=classes,
            questions=question or [],
            kinds=kind or [],
            heads=head or [],
            npz=npz,
            normalisation=normalisation,
            style=style,
            opacity=opacity,
            boxes=boxes,
            contour=contour,
            weights=weights,
            trust=trust_checkpoint,
            data_root=data_root,
            device=device,
            on_bad_image=on_bad_image,
        )
        with output_folder(out, overwrite, WRITTEN) as folder:
            summary = _write(request, folder)
        say(*summary, f"open {out / 'gallery.html'} in a browser")

    return with_recipe_options(command, method, training=False)


visualize = typer.Typer(
    cls=per_method(_command),
    no_args_is_help=True,
    help="Draw where models look.",
    epilog="Example:  attnbias visualize csra --load-from runs/plain --load-from runs/csra photo.jpg",
)


@visualize.callback()
def _visualize() -> None:
    """Sub-commands are the methods; this only makes the group exist."""


def parse_classes(text: str | None, classes: Sequence[str]) -> list[int]:
    """Class numbers of comma-separated names or numbers; a name goes before a number that it looks like.

    Raises:
        UsageError: no such class; the nearest name is offered.
    """
    numbers = []
    for word in (part.strip() for part in (text or "").split(",") if part.strip()):
        if word in classes:
            numbers.append(classes.index(word))
        elif word.isdecimal() and int(word) < len(classes):
            numbers.append(int(word))
        else:
            raise UsageError(
                f"no class '{word}'{did_you_mean(word, classes)}; the model knows {len(classes)}: "
                f"{', '.join(classes[:8])}{' ...' if len(classes) > 8 else ''}"
            )
    return list(dict.fromkeys(numbers))


def _columns(request: Request) -> "list[Column]":
    """Load every checkpoint; one column for each of its maps and heads."""
    import torch

    from attnbias.methods.engine.display.look import Column
    from attnbias.methods.engine.load import load_run
    from attnbias.methods.engine.published import on_disk, shown

    device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from None
    heads: list[int | None] = [*request.heads] or [None]
    columns: list[Column] = []
    for source in request.load_from:
        prefix, _, rest = source.partition(":")
        prefixed = prefix in METHODS and rest != "" and on_disk(source) is None
        owner, file = (prefix, rest) if prefixed else (request.method.name, source)
        same = owner == request.method.name
        loaded = load_run(
            owner,
            file,
            request.fields if same else {},
            device,
            recipe_name=request.recipe if same else None,
            entry="model" if request.weights == "raw" else "ema" if request.weights == "ema" else None,
            trust=request.trust,
            data_root=request.data_root,
        )
        if columns and loaded.classes != columns[0].loaded.classes:
            raise UsageError(
                f"{shown(source)} knows other classes than {shown(request.load_from[0])}; compare runs of one dataset"
            )
        path = on_disk(file)
        run = path.stem if path and path.is_file() else Path(shown(file)).resolve().name
        kinds = request.kinds or loaded.method.default_maps(loaded.recipe)
        for kind in kinds:
            for head in heads:
                named = request.kinds or len(kinds) > 1
                words = [run, *([kind] if named else []), *([] if head is None else [f"head {head}"])]
                taken = sum(column.name.split(" #")[0] == " ".join(words) for column in columns)
                name = " ".join(words) + (f" #{taken + 1}" if taken else "")
                columns.append(Column(name, loaded, kind, head))
    return columns


def _photos(request: Request, column: "Column") -> "tuple[str, list[Callable[[], Photo]]]":
    """Where the pictures come from, in words, and how to read each."""
    from attnbias.data.pictures import read_picture
    from attnbias.methods.engine.display.look import Photo, photo_of
    from attnbias.methods.engine.load import open_split_of

    if request.paths:
        found, left_out = find_pictures(request.paths)
        files = found[: request.limit]
        say_how_read([path for _, path in files])

        def read(name: str, path: Path) -> Photo:
            return Photo(name, read_picture(path, "upright"))

        own: list[Callable[[], Photo]] = [partial(read, *file) for file in files]
        words = f"; files and folders left out: {left_out.total}" if left_out else ""
        return ", ".join(map(str, request.paths)) + words, own
    loaded = column.loaded
    index = open_split_of(loaded, request.split, request.data_root)
    dataset = loaded.method.open_dataset(loaded.recipe, index)
    limit = request.limit or (len(dataset) if request.top else SPLIT_LIMIT)
    places = range(min(limit, len(dataset)))
    words = f"{index.dataset}, split {index.split}, first {len(places)} of {len(dataset)}"
    return words, [partial(photo_of, dataset, place) for place in places]


def _by_class(request: Request, columns: "list[Column]") -> "Plan":
    """Look for classes: those that were asked for, else each picture's true and predicted ones."""
    from attnbias.methods.engine.display.look import look

    if request.questions:
        raise UsageError(f"method '{request.method.name}' is asked by class: use --classes in the place of --question")
    classes = columns[0].loaded.classes
    asked = parse_classes(request.classes, classes)
    source, readers = _photos(request, columns[0])
    return Plan(classes, source, readers, partial(look, columns=columns, asked=asked, rule=request.normalisation))


def _in_words(request: Request, columns: "list[Column]") -> "Plan":
    """Ask in words: the questions of the command line, else each sample's own text."""
    from attnbias.data.registry import dataset_folder
    from attnbias.methods.engine.display.questions import ask

    if request.classes:
        raise UsageError(f"method '{request.method.name}' is asked in words: use --question in the place of --classes")
    if request.paths and not request.questions:
        raise UsageError("add --question: what shall be asked of these pictures?")
    source, readers = _photos(request, columns[0])
    if request.questions:
        questions = dict.fromkeys(request.questions, "")
        readers = [partial(_questioned, read, questions) for read in readers]
    texts: list[str] = []
    homes = [dataset_folder(column.loaded.recipe.dataset, request.data_root) for column in columns]
    see = partial(ask, columns=columns, texts=texts, homes=homes, rule=request.normalisation)
    return Plan(texts, source, readers, see)


def _questioned(read: "Callable[[], Photo]", questions: dict[str, str]) -> "Photo":
    """Read a picture and ask these questions of it."""
    return replace(read(), questions=questions)


def _look(
    request: Request,
    see: "Callable[[list[Photo]], list[Seen]]",
    readers: "list[Callable[[], Photo]]",
    skipped: list[str],
) -> "Iterator[tuple[Photo, Seen]]":
    """Read and look at the pictures, a batch at a time; `skipped` gains what could not be read."""
    from attnbias.data.errors import DataError

    starts = range(0, len(readers), BATCH)
    with waiting_bar() as bar:
        for start in bar.track(starts, description="looking"):
            photos: list[Photo] = []
            for read in readers[start : start + BATCH]:
                try:
                    photos.append(read())
                except DataError as error:
                    if request.on_bad_image == "error":
                        raise
                    skipped.append(str(error))
            yield from zip(photos, see(photos), strict=True)


def _write(request: Request, folder: Path) -> list[str]:
    """Look, draw and write everything into `folder`; return what was done, a line a fact."""
    from attnbias.data.errors import DataError
    from attnbias.methods.engine.display.exhibit import Exhibit

    columns = _columns(request)
    if len({column.loaded.method.reads_texts for column in columns}) > 1:
        raise UsageError("some of these models are asked in words, others are not; show them one by one")
    plan = _in_words if columns[0].loaded.method.reads_texts else _by_class
    names, source, readers, see = plan(request, columns)
    exhibit = Exhibit(
        folder,
        columns,
        request.normalisation,
        names,
        style=request.style,
        opacity=request.opacity,
        boxes=request.boxes,
        contour=request.contour,
    )
    skipped: list[str] = []
    shown: Iterable[tuple[Photo, Seen]] = _look(request, see, readers, skipped)
    if request.top is not None:
        shown = heapq.nlargest(request.top, shown, key=lambda pair: pair[1].peak)
        source += f"; the {len(shown)} where {columns[0].name} peaks highest, highest first"
    for photo, seen in shown:
        exhibit.add(photo, seen)
    if not exhibit.items:
        raise DataError("no picture could be read: " + "; ".join(skipped[:3]))
    exhibit.write_page(source)
    if request.npz:
        exhibit.write_maps()
    left_out = [f"{len(skipped)} unreadable pictures left out: " + "; ".join(skipped)] if skipped else []
    return [f"{len(exhibit.items)} pictures, {exhibit.overlays} overlays", *left_out]
