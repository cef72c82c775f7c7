"""Export a checkpoint as one graph: images in; scores, attention maps, and the maps' classes out.

Formats: ONNX (onnxruntime and its kin) and torch.export (a .pt2 file, read with `torch.export.load`). The batch is
free, the image's size is the recipe's. What was exported is run on real images and held against its model.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from attnbias.data.datasets import ImageDataset
from attnbias.data.questions import Question
from attnbias.methods.engine.abilities import LabelsPixels
from attnbias.methods.engine.batches import batches, on_device
from attnbias.methods.engine.errors import NotFiniteError, RunError, UsageError, did_you_mean
from attnbias.methods.engine.exported import Classifier, Exported, PixelLabeller, Reader, check_one_pass
from attnbias.methods.engine.launch import place, start
from attnbias.methods.engine.load import (
    Loaded,
    check_recipe_helps,
    class_numbers,
    load_asked,
    open_split_of,
    weights_metadata,
)
from attnbias.methods.engine.output_files import GRAPH, GRAPH_DATA, check_targets, requested
from attnbias.methods.engine.own_images import OwnImages, find_images, open_own, say_how_made
from attnbias.methods.engine.prediction.answering import open_questions
from attnbias.methods.engine.priors import steered
from attnbias.methods.engine.requests import CHECK_LIMIT, EXPORTED_MAPS, ExportRequest
from attnbias.methods.engine.screen import counted
from attnbias.methods.engine.stored import EXPORTED, KEY, need_onnx
from attnbias.methods.engine.types import LABELLED
from attnbias.weights.names import check_name

Format = Literal["onnx", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}

SCORE_TOLERANCE, MAP_TOLERANCE = 1e-4, 1e-3
"""Largest differences that pass as rounding, as shares of the highest probability and of the highest map's value."""

QUESTION = "what is in the picture?"
"""What --check asks of a person's own images, of a model that is asked in words."""

CHECKED = 4
"""Images of --check at once."""

LARGEST_ONNX = 1_800_000_000
"""Bytes of weights that one ONNX file can hold (protobuf's limit is 2 GB); more go into a file beside it."""


@dataclass(frozen=True)
class Parity:
    """How what was exported differs from the model, on the same images."""

    images: int
    scores: float
    """Largest difference of a probability, as a share of the highest one."""
    maps: float
    """Largest difference of a map's value, as a share of the highest value of all maps."""
    reordered: int
    """Places where near-equal scores put another class; their maps are not compared."""

    def __bool__(self) -> bool:
        return self.scores <= SCORE_TOLERANCE and self.maps <= MAP_TOLERANCE

    def __str__(self) -> str:
        swapped = f"; {self.reordered} classes of near-equal scores changed places" if self.reordered else ""
        return (
            f"largest difference on {self.images} images: scores {self.scores:.2g} and maps {self.maps:.2g} "
            f"of their highest values{swapped}"
        )


def wrap(
    loaded: Loaded,
    *,
    kind: str | None = None,
    head: int | None = None,
    classes: Sequence[int] = (),
    top_k: int | None = None,
) -> Exported:
    """The graph to export.

    Raises:
        UsageError: there is no such map, or it needs a backward pass or more than one; classes or heads of a model that
            has none of them.
    """
    method = loaded.method
    backward = tuple(method.explainers())
    able = [name for name in method.maps if not name.startswith(backward)]
    own = method.default_map(loaded.recipe)
    kind = kind or (own if own in able else able[0])
    if kind.startswith(backward):
        raise UsageError(
            f"--map {kind} needs a backward pass or more than one pass, which a graph cannot hold; use one of: "
            f"{', '.join(able)}"
        )
    if kind not in able:
        raise UsageError(
            f"method '{method.name}' has no map '{kind}'{did_you_mean(kind, able)}; one of: {', '.join(able)}"
        )
    exported = _graph(loaded, kind, head, classes, top_k).eval()
    device = next(loaded.model.parameters()).device
    with torch.no_grad():  # a method may settle something with its first images, such as the layer that it looks at
        exported(*(tensor[:1].to(device) for tensor in exported.example()))
    return exported


def _graph(loaded: Loaded, kind: str, head: int | None, classes: Sequence[int], top_k: int | None) -> Exported:
    """The graph of a model of this task.

    Raises:
        UsageError: something was asked for that such a model has not.
    """
    own = loaded.method.default_map(loaded.recipe)
    if loaded.task in LABELLED:
        return Classifier(loaded, kind, head, classes, top_k or EXPORTED_MAPS)
    for flag, asked in (("--classes", bool(classes)), ("--top-k", top_k is not None)):
        if asked:
            raise UsageError(f"{flag} is for the graphs of classifiers, and {loaded.source} is for {loaded.task}")
    if loaded.method.reads_texts:
        if loaded.steering is not None:
            raise UsageError(
                "the graph of a model that is asked in words is steered by its text; leave --prior and --gain out"
            )
        return Reader(loaded, kind, head, int(loaded.recipe.model_dump()["max_text_length"]))
    if kind != own or head is not None:
        raise UsageError(
            f"the graph of {loaded.source} has the probability of each class at each pixel (map {own}) alone"
        )
    check_one_pass(loaded)
    return PixelLabeller(loaded, kind)


@dataclass(frozen=True)
class Graph:
    """What was exported."""

    file: Path
    image_size: int
    """Height and width of its images; where `any_size`, those that it was made for."""
    map: str
    """Kind of its maps."""
    classes: int
    parity: Parity | None
    """How it agrees with the model, where that was asked."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    any_size: bool
    """Whether images may have any height and width."""


def export(request: ExportRequest, model: Loaded | None = None) -> Graph:
    """Load a checkpoint, write it as one graph, and hold it against the model where that is asked.

    `model` is that of `request.load_from`, on the CPU, where it is loaded already.

    Raises:
        UsageError: something asked for cannot be had, or would replace what is not the command's own.
        DataError, WeightsError: an image or the checkpoint cannot be read. RunError: as `write_graph`.
    """
    found, _ = find_images(request.paths)
    suffix = SUFFIXES[request.format]
    file = request.out or Path(request.method + suffix)
    if file.suffix != suffix:
        raise UsageError(f"--out {file}: expected a name that ends in {suffix}")
    weights_file = file.with_name(f"{file.name}.data") if request.format == "onnx" else None
    check_targets(requested((file, GRAPH), (weights_file, GRAPH_DATA)), request.reads, request.overwrite)
    request = place(request if request.device or request.gpus else request.model_copy(update={"gpus": 0}))
    device = start(request)
    loaded = model or load_asked(request, request.method, request.load_from)
    check_recipe_helps(request.recipe, [loaded])
    numbers = class_numbers(request.classes, loaded.classes)
    named = [loaded.classes[number] for number in numbers] or None
    loaded = steered(request, loaded, [request.map or loaded.method.default_map(loaded.recipe)], named)
    exported = wrap(loaded, kind=request.map, head=request.head, classes=numbers, top_k=request.top_k)
    images = None
    if request.check:
        images = images_for_check(loaded, [str(path) for _, path in found], request.data_root)
        say_how_made(loaded)
    check = partial(compare, limit=request.limit or CHECK_LIMIT, workers=request.workers or 0, device=device)
    with request.finite_answers():
        parity = write_graph(exported, loaded, request.format, file, images, check)
    return Graph(
        *(file, loaded.recipe.image_size, exported.kind, len(loaded.classes), parity),
        inputs=exported.inputs,
        outputs=exported.outputs,
        any_size=exported.any_size,
    )


@torch.no_grad()
def write_graph(
    exported: Exported,
    loaded: Loaded,
    form: Format,
    out: Path,
    images: ImageDataset | None = None,
    check: Callable[[Exported, Runner, ImageDataset], Parity] | None = None,
) -> Parity | None:
    """Write `out`, and hold it against the model by `check` where there are `images`.

    Nothing is written under the name of `out` before it is whole and, where that is asked, found equal.

    Raises:
        UsageError: the package that the format needs is not installed.
        RunError: it cannot be exported or written, or does not agree with the model, or its answers are not finite.
    """
    if form == "onnx":
        need_onnx()
    check_name(out)
    content = json.loads(weights_metadata(loaded.method, loaded.recipe, loaded.classes, loaded.task)[KEY])
    steering = {} if loaded.steering is None else {"steered_by": loaded.steering.words}
    metadata = json.dumps(
        {**content, "map": exported.kind, **steering, "inputs": exported.inputs, "outputs": exported.outputs}
    )
    with _quiet(), _replacing(out) as part:
        try:
            dims = tuple(exported.dims().values())
            free = {"inputs": dims} if isinstance(exported, Reader) else dims
            program = torch.export.export(exported, exported.example(), dynamic_shapes=free, strict=False)
        except UsageError:
            raise
        except Exception as error:  # the tracer raises errors of many kinds
            raise RunError(f"this model cannot be exported: {str(error).splitlines()[0]}") from error
        if form == "onnx":
            _write_onnx(program, exported, part, metadata)
        else:
            torch.export.save(program, part, extra_files={EXPORTED: metadata})
        parity = None if images is None else (check or compare)(exported, runner(part, form), images)
        if parity is not None and not parity:
            raise RunError(f"what was exported does not agree with the model: {parity}; it was not kept")
    return parity


def _write_onnx(program: ExportedProgram, exported: Exported, path: Path, metadata: str) -> None:
    # torch's translation knows attention over (B, heads, N, d) only; three dimensions become products and a softmax.
    table: dict[object, Callable[..., object]] = {torch.ops.aten.scaled_dot_product_attention.default: _attention}
    program = program.run_decompositions(table)
    converted = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=[*exported.inputs], output_names=[*exported.outputs]
    )
    assert converted is not None
    converted.model.metadata_props[KEY] = metadata
    weights = sum(value.nbytes for value in exported.state_dict().values())
    converted.save(path, external_data=weights > LARGEST_ONNX)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *_: object,
    scale: float | None = None,
    **__: object,
) -> object:
    if query.ndim != 3 or mask is not None:
        return NotImplemented
    return (query * (scale or query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(-1) @ value


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes about their own steps."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A path of the same name in a folder of its own; what was written there takes its place when all went well."""
    folder = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True)
        yield folder / out.name
        for file in folder.iterdir():
            file.replace(out.with_name(file.name))
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Holding it against the model -----------------------------------------------------------------------------------------

Runner = Callable[..., tuple[Tensor, ...]]
"""A graph's inputs, such as images -> what it answers."""


def runner(path: Path, form: Format) -> Runner:
    """Read an exported file with the runtime that it is for, on the CPU."""
    if form == "torch-export":
        module = torch.export.load(path).module()
        return lambda *inputs: module(*inputs)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(array) for array in session.run(None, arrays))

    return run


def images_for_check(loaded: Loaded, paths: Sequence[str], data_root: Path | None) -> ImageDataset:
    """The person's images, or the evaluation split of the checkpoint's own set.

    Raises:
        DataError: none were given, and the set is not prepared.
        UsageError: the set has other classes than the model.
    """
    method = loaded.method
    if method.reads_texts and paths:
        questions = [Question(Path(path), QUESTION, Path(path) if loaded.task == "nlvr2" else None) for path in paths]
        return open_questions(loaded, questions, data_root)
    if paths:
        own = open_own(loaded, paths)
        return OwnImages(own.index, _seen(loaded)) if isinstance(method, LabelsPixels) else own
    index = open_split_of(loaded, "val", data_root)
    return method.open_dataset(loaded.recipe, index) if method.reads_texts else ImageDataset(index, _seen(loaded))


def _seen(loaded: Loaded) -> Callable[..., Any]:
    """How one image is made for a graph."""
    method = loaded.method
    return (
        method.seen_whole(loaded.recipe)
        if isinstance(method, LabelsPixels)
        else method.transform(loaded.recipe, train=False)
    )


@torch.no_grad()
def compare(
    exported: Exported,
    run: Runner,
    dataset: ImageDataset,
    limit: int = CHECK_LIMIT,
    *,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Parity:
    """Ask both the first `limit` images, in batches of another size than the one that was traced; the model on
    `device`, with as many loader processes."""
    count = min(limit, len(dataset))
    scores, maps, reordered = [torch.zeros(2)], [torch.zeros(2)], 0  # largest differences and values, by batch
    at_once = 1 if exported.any_size else CHECKED
    cuts = [range(start, min(start + at_once, count)) for start in range(0, count, at_once)]
    exported.to(device)
    cpu = torch.device("cpu")
    with counted(batches(dataset, cuts, workers=workers, device=cpu), "checked images", of=count) as read:
        for batch in read:
            inputs = exported.feed(on_device(batch, dataset, cpu))
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # no coarser than the graph's own runtime
                answered = exported(*(tensor.to(device) for tensor in inputs))
            expected = dict(zip(exported.outputs, (answer.cpu() for answer in answered), strict=True))
            if not all(answer.isfinite().all() for answer in expected.values()):
                raise NotFiniteError("the model's own answers hold")
            found = dict(zip(exported.outputs, run(*inputs), strict=True))
            first = exported.outputs[0]
            scores.append(torch.stack([(expected[first] - found[first]).abs().max(), expected[first].abs().max()]))
            numbers = next((name for name in ("classes", "labels") if name in expected), None)
            same = None if numbers is None else expected[numbers] == found[numbers]  # (B, K), or (B, H, W)
            reordered += 0 if same is None else int((~same).sum())
            if "maps" in expected and (same is None or same.any()):
                differences = expected["maps"] - found["maps"]
                worst = differences if same is None else differences[same]
                maps.append(torch.stack([worst.abs().max(), expected["maps"].max()]))
    # torch's maximum, unlike Python's, keeps a NaN, which then passes nowhere.
    shares = [
        float(worst / (highest or 1)) for worst, highest in (torch.stack(part).amax(0) for part in (scores, maps))
    ]
    return Parity(count, shares[0], shares[1], reordered)
