"""From a name on the command line to a model with weights: run folders, our safetensors, and the authors' files.

What we write carries its recipe, classes and task, so it loads with no flags. A published file carries only weights:
its method's `infer` reads what names and shapes tell, and a named recipe gives the rest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict, Unpack

import torch
from pydantic import AfterValidator, Field
from safetensors import safe_open
from torch import Tensor, nn

from attnbias.data.class_matching import ClassMatch
from attnbias.data.errors import DataError
from attnbias.data.fingerprint import class_difference
from attnbias.data.index import MOST_CLASSES, Index, Task
from attnbias.data.reading import FileName, Items, Json, StoredModel, is_whole_number, parse_json, reading
from attnbias.data.reading import shown as shown_text
from attnbias.data.registry import DATASETS, known_class_names, open_split
from attnbias.data.sets.imagenet import names_of_size, readable
from attnbias.data.transforms.basic import normalization
from attnbias.methods import METHODS
from attnbias.methods.engine.abilities import AnswersAs, LabelsPixels, LoadsByName
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.method import AnyMethod
from attnbias.methods.engine.outline import names_and_shapes, undrawn
from attnbias.methods.engine.own_networks import OwnNetwork, own_network
from attnbias.methods.engine.pretrained import of_library
from attnbias.methods.engine.published import (
    locate,
    names_function,
    names_network,
    names_transformers,
    on_disk,
    published_recipe,
    refused_leaves_nothing,
)
from attnbias.methods.engine.published import shown as shown_source
from attnbias.methods.engine.recipe import (
    FRESH,
    TRAINING_DATA,
    Recipe,
    check_read,
    flag_of,
    other_network,
    override,
    panel_of,
    parse,
    read_recipe,
)
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import ConvertRequest, FromWeights, OfAnyMethod, RunsFunctions
from attnbias.methods.engine.run_folder import MANIFEST, PROGRESS, RunFolder, check_whole
from attnbias.methods.engine.stored import KEY, known_method, stored_method
from attnbias.methods.engine.types import Fields, Steering
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import Checkpoint, Entry, load_strict, match_state, read_checkpoint
from attnbias.weights.folders import weights_in
from attnbias.weights.manifest import PUBLISHED
from attnbias.weights.names import check_name

LOG = logging.getLogger(__name__)

SHOWN = 5
"""Names of what was left out that are shown."""

FOREIGN = (LookupError, ValueError, RuntimeError, ArithmeticError, StopIteration)
"""What reading weights of another model raises: names that are missing, shapes of other lengths. Anything else is a
bug."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer, and everything needed to say what it is."""

    method: AnyMethod
    recipe: Recipe
    model: nn.Module
    """In evaluation mode, on the device asked for."""
    classes: tuple[str, ...]
    task: Task
    source: str
    """Where the weights came from, in words for a person."""
    tells_recipe: bool = True
    """Whether the weights say how they were trained, as ours do."""
    steering: Steering | None = None
    """What its second pass is told to look for in this command (priors.py)."""
    own_network: bool = False
    """Whether it came as a Python object, which its recipe cannot build again."""
    edited: tuple[str, ...] = ()
    """Fields in which the recipe.yaml of its run, which does not count, differs from the recipe in the weights."""
    match: ClassMatch | None = None
    """Which of its own classes stand for these `classes`, where they are a dataset's."""

    def knows(self, label: int) -> bool:
        """Whether the model has this one of `classes`; of one that it has not, it has neither a score nor a map."""
        return self.match is None or bool(self.match.members[label])


def which_weights(source: str, load_from: str) -> str:
    """Words for weights, without the path that they were loaded from: "best checkpoint, step 14, raw weights"."""
    return source.removeprefix(str(Path(load_from))).strip(" ()")


def class_numbers(words: Sequence[str | int], classes: Sequence[str]) -> list[int]:
    """Class numbers of names or numbers, each once; of texts, a name goes before a number that it looks like.

    Raises:
        UsageError: no such class; the nearest name is offered.
    """
    numbers = []
    for word in words:
        if word in classes:
            numbers.append(classes.index(word))
        elif is_whole_number(str(word)) and int(word) < len(classes):
            numbers.append(int(word))
        else:
            raise UsageError(
                f"no class '{word}'{did_you_mean(str(word), classes)}; the model knows {len(classes)}: "
                f"{', '.join(classes[:8])}{' ...' if len(classes) > 8 else ''}"
            )
    return list(dict.fromkeys(numbers))


def weights_metadata(method: AnyMethod, recipe: Recipe, classes: tuple[str, ...], task: Task) -> dict[str, str]:
    """What a weight file says of itself: with it, `val` and `visualize` need no flags.

    One entry, because safetensors writes several in any order and equal weights would give unequal files.
    """
    values = {
        "method": method.name,
        "task": task,
        "recipe": recipe.model_dump(mode="json"),
        "classes": classes,
        "preprocessing": preprocessing(method, recipe),
    }
    return {KEY: json.dumps(values)}


def preprocessing(method: AnyMethod, recipe: Recipe) -> Json:
    """What is done to an image before the model sees it, for those who load the weights without this program."""
    mean, std = normalization(recipe.normalize)
    # Where pixels are labelled, images are made otherwise than for maps, and may be looked at several times.
    steps = method.evaluation_steps(recipe) if isinstance(method, LabelsPixels) else _steps(method, recipe)
    return {"image_size": recipe.image_size, "mean": mean, "std": std, "steps": steps}


def _steps(method: AnyMethod, recipe: Recipe) -> list[str]:
    steps: list[str] = []
    pending: list[object] = [method.transform(recipe, train=False)]
    while pending:
        step = pending.pop(0)
        inner = getattr(step, "transforms", None)
        pending[:0] = inner or []
        steps += [] if inner else [repr(step)]
    return steps


def input_words(method: AnyMethod, recipe: Recipe, *, of_maps: bool = False) -> str:
    """How images are made for a model, on one line; `of_maps`: for what it shows of them, not for its answers."""
    made = _steps(method, recipe) if of_maps else preprocessing(method, recipe)["steps"]
    steps = [step for step in made if not step.startswith(("Identity", "ToNormalizedTensor"))]
    mean, std = (" ".join(f"{value:g}" for value in values) for values in normalization(recipe.normalize))
    return f"{', '.join(steps) or 'as they are'}; normalize {recipe.normalize} (mean {mean}, std {std})"


def stored_info(path: Path, method: AnyMethod) -> StoredInfo:
    """Read what a weight file of a complete checkpoint says of itself.

    Raises:
        WeightsError: it is of another method.
    """
    check_name(path)
    with safe_open(path, framework="pt") as file:
        stored = info_in(path, file.metadata() or {}, method)
    if stored is None:
        raise WeightsError(f"{path} was not written by attnbias train; nothing can be resumed from it")
    return stored


@dataclass(frozen=True)
class Described:
    """Weights that were read, and what they are, before a model is built for them."""

    method: AnyMethod
    recipe: Recipe
    classes: tuple[str, ...]
    task: Task
    state: dict[str, Tensor]
    """Under our names; position embeddings still of their own size."""
    path: Path
    source: str
    """Where they came from, in words for a person."""
    layout: str
    """How the file holds them."""
    tells_recipe: bool
    """Whether they are ours, which say how they were trained."""
    edited: tuple[str, ...]
    """As `Loaded.edited`."""


def describe(
    method_name: str,
    load_from: str,
    overrides: Fields,
    *,
    recipe_name: str | None = None,
    entry: Entry | None = None,
    trust: bool = False,
    data_root: Path | None = None,
) -> Described:
    """Read weights and find out what they are; arguments and errors are those of `load_run`."""
    method = get_method(method_name)
    if recipe_name is not None:
        method.named_recipe(recipe_name)  # a wrong name is one, even where the weights tell all
    known_recipe = published_recipe(load_from, method.name)
    recipe_name = recipe_name or known_recipe
    of_imagenet = False
    if isinstance(method, LoadsByName) and (named := of_library(load_from, overrides)):
        load_from, fields, words = named
        LOG.warning("%s", words)
        overrides, of_imagenet = {**fields, **overrides}, True
    place, edited = locate(load_from), tuple[str, ...]()
    path, words = _resolve(place, entry)
    checkpoint = _read(path, trust=trust, entry=entry if words == str(path) else "model")
    stored = info_in(path, checkpoint.metadata, method)
    if stored is not None:
        recipe, classes, task, state = override(stored.recipe, overrides), stored.classes, stored.task, checkpoint.state
        edited = _edited(place / "recipe.yaml", method, stored.recipe)
    else:
        state, inferred = read_published(method, checkpoint.state, path, overrides.get("backbone"))
        recipe, classes, task, base = _describe_published(
            method, checkpoint.state, inferred, path, overrides, recipe_name, data_root, of_imagenet=of_imagenet
        )
        untold = [name for name in method.untold if name not in {*inferred, *overrides}]
        assumed = ", ".join(f"{name} {getattr(recipe, name)}" for name in untold)
        flags = ", ".join(map(flag_of, untold))
        words += f" ({checkpoint.layout}{'; assumed: ' if assumed else ''}{assumed})"
        for line in left_out(path, checkpoint):
            LOG.warning("%s", line)
        if assumed:
            like = f"as in recipe '{base}' ({task}, of {recipe.dataset})"
            LOG.warning(
                "%s does not tell all; assumed %s: %s; say otherwise with --recipe, %s", path, like, assumed, flags
            )
    return Described(method, recipe, classes, task, state, path, words, checkpoint.layout, stored is not None, edited)


def _edited(file: Path, method: AnyMethod, recipe: Recipe) -> tuple[str, ...]:
    """The fields in which the recipe.yaml of a run, where there is one, differs from its weights; says so."""
    if not file.is_file():
        return ()
    try:
        written = read_recipe(file, method.recipe_type, method.name)
    except UsageError as error:
        LOG.warning("%s; the recipe in the weights counts", error)
        return ()
    names = tuple(name for name, value in recipe if value != getattr(written, name))
    if names:
        LOG.warning("%s differs from the recipe in the weights, which counts: %s", file, ", ".join(names))
    return names


class HowToRead(TypedDict, total=False):
    """The options of `describe`."""

    recipe_name: str | None
    entry: Entry | None
    trust: bool
    data_root: Path | None


def load_run(
    method_name: str,
    load_from: str,
    overrides: Fields,
    device: torch.device | str = "cpu",
    **how: Unpack[HowToRead],
) -> Loaded:
    """Load weights for evaluation.

    `load_from` is a run folder (its best checkpoint, else its newest), a checkpoint folder, or a weight file of ours or
    of the paper's authors, by its path, its published name or a URL. `overrides` are recipe fields typed by the person;
    `recipe_name` helps published files. `entry` picks raw or averaged weights; by default those that reached the best
    measure.

    Raises:
        UsageError: flags contradict the checkpoint. WeightsError: it is missing, damaged or does not fit.
    """
    return with_model(describe(method_name, load_from, overrides, **how), overrides, device)


def with_model(described: Described, overrides: Fields, device: torch.device | str = "cpu") -> Loaded:
    """Build the model of weights that `describe` read, and give it them; errors are those of `load_run`."""
    method, recipe, path = described.method, described.recipe, described.path
    with names_and_shapes():  # weights that do not fit may ask for any
        outline = method.build_model(recipe, len(described.classes), described.task)
    match = match_state(outline.state_dict(), fitted(method, outline, described.state))
    if overrides and not match:
        flags = ", ".join(map(flag_of, overrides))
        raise UsageError(f"{path} does not fit the model with {flags}: {match}; leave out what contradicts it")
    if not match:
        raise WeightsError(f"{path} does not fit the model: {match}")
    with undrawn():
        model = method.build_model(recipe, len(described.classes), described.task)
    load_strict(model, fitted(method, model, described.state), path)
    about = described.classes, described.task, described.source, described.tells_recipe
    return Loaded(method, recipe, model.to(device).eval(), *about, edited=described.edited)


def _around(
    method: AnyMethod,
    own: OwnNetwork,
    source: str,
    overrides: Fields,
    recipe_name: str | None,
    device: torch.device | str,
    data_root: Path | None,
) -> Loaded:
    """A network that is built already, with a recipe that makes its images; what was typed goes before what it says.

    Classes that nobody told are the dataset's, where it has as many, else those of the recipe's own set, else numbers.

    Raises:
        UsageError: the method takes no such network.
    """
    if not isinstance(method, LoadsByName):
        raise UsageError(f"{source} is a whole classifier, no model of '{method.name}'; take it as one of 'plain'")
    base = method.named_recipe(recipe_name or next(iter(method.recipes))).recipe
    recipe = override(base, {**own.fields, "backbone": source, "init": FRESH, **overrides})
    untold = [name for name in method.untold if name not in {"backbone", *own.fields, *overrides}]
    if untold:
        assumed = ", ".join(f"{name} {getattr(recipe, name)}" for name in untold)
        LOG.warning("%s does not tell how its images are made; assumed: %s", source, assumed)
    names, task = _classes_and_task(recipe.dataset, data_root, "singlelabel")
    classes = own.classes
    if classes is None:
        known = ((recipe.dataset, names), (base.dataset, known_class_names(base.dataset)))
        of, classes = next(
            ((f"those of {dataset}", them) for dataset, them in known if len(them) == own.outputs),
            ("numbers", tuple(f"class {position}" for position in range(own.outputs))),
        )
        LOG.warning("%s names no classes; assumed: %s", source, of)
    model = method.around(own.network, recipe).to(device).eval()
    return Loaded(method, recipe, model, classes, task, own.words, own_network=True)


def load_asked(
    request: FromWeights, method_name: str, load_from: str, device: torch.device | str = "cpu", *, own: bool = True
) -> Loaded:
    """Load weights as a request says; what it says of one method's recipe is for its `own` weights only.

    Here alone a name may be that of a function of one's own or of a model of transformers (own_networks.py): a person
    typed it, to a command that takes one.

    Raises:
        UsageError: as `load_run`, or a field is told that only training reads, or nothing beside the others.
            `weights convert` alone keeps these.
    """
    fields = request.fields if own else {}
    if not isinstance(request, ConvertRequest):
        for name, info in get_method(method_name).recipe_type.model_fields.items():
            if name in fields and panel_of(info) == TRAINING_DATA:
                raise UsageError(f"{flag_of(name)} is of training: it changes nothing here; leave it out")
    if isinstance(request, RunsFunctions):
        made = own_network(load_from, request.weights_file, request.trust_checkpoint)
        if made is not None:
            named = request.recipe if own else None
            return _around(get_method(method_name), made, load_from, fields, named, device, request.data_root)
    loaded = load_run(
        method_name,
        load_from,
        fields,
        device,
        recipe_name=request.recipe if own else None,
        entry=request.entry,
        trust=request.trust_checkpoint,
        data_root=request.data_root,
    )
    if not isinstance(request, ConvertRequest):
        check_read(loaded.recipe, fields)
    return loaded


def check_recipe_helps(recipe: str | None, weights: Sequence[Loaded | Described]) -> None:
    """Refuse a named recipe where there is nothing that it could tell.

    Raises:
        UsageError: all these weights tell their own.
    """
    if recipe is not None and weights and all(each.tells_recipe for each in weights):
        raise UsageError(
            f"--recipe {recipe} changes nothing: {weights[0].source} tells its own recipe; leave it out, or type the "
            "fields that shall differ"
        )


def open_split_of(loaded: Loaded, split: str, data_root: Path | None, dataset: str | None = None) -> Index:
    """Open a split for a model, of its own dataset or of another one with the same classes.

    Raises:
        UsageError: the dataset has other classes than the model, or the same in another order.
    """
    index = open_split(dataset or loaded.recipe.dataset, split, data_root)
    mend = "name the right one with --dataset (of audit: DATA)"
    if isinstance(loaded.method, AnswersAs):
        mend += ", or say which class is which with --class-map FILE"
    if len(index.classes) != len(loaded.classes):
        raise UsageError(
            f"{loaded.source} knows {len(loaded.classes)} classes, dataset '{index.dataset}' has "
            f"{len(index.classes)}; {mend}"
        )
    if difference := class_difference(readable(loaded.classes), readable(index.classes)):
        raise UsageError(
            f"{loaded.source} was trained on other classes than dataset '{index.dataset}' has: {difference}; {mend}"
        )
    if index.task != loaded.task:
        LOG.warning(
            "%s is for %s, and is asked as if for %s: so is %s", loaded.source, loaded.task, index.task, index.dataset
        )
    return index


def owners(load_from: str, *, trust: bool = False) -> list[str]:
    """The methods that weights can belong to: the one that a file or a published name tells, else by names and shapes.

    Empty where they are nobody's, as those of a backbone.
    """
    published = None if on_disk(load_from) else PUBLISHED.get(load_from)
    if published is not None and published.recipe:
        return list(published.methods)
    if names_network(load_from) or names_function(load_from) or names_transformers(load_from):
        return [name for name in METHODS if isinstance(get_method(name), LoadsByName)]
    path = locate(load_from)
    if (stored := stored_method(path)) is None:
        path, _ = _resolve(path, None)
        stored = stored_method(path)  # where the recipe.yaml of a run does not say
    if stored is not None:
        return [stored]
    state = _read(path, trust=trust).state
    return [name for name in METHODS if _belongs_to(get_method(name), state, path)]


def owner(request: OfAnyMethod) -> str:
    """The method that is named, or the one that the weights belong to.

    Raises:
        UsageError: there are several, or none.
    """
    if request.method is not None:
        return request.method
    names = owners(request.load_from, trust=request.trust_checkpoint)
    if len(names) != 1:
        which = f"may be of {' or '.join(names)}" if names else "are of no method; see: attnbias weights inspect"
        raise UsageError(
            f"weights {shown_source(request.load_from)} {which}{'; say which with --method' if names else ''}"
        )
    return names[0]


def left_out(path: Path, checkpoint: Checkpoint) -> list[str]:
    """A warning where a file's state dict holds tensors that are not of the model."""
    names = checkpoint.left_out
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    named = ", ".join(shown_text(name)[1:-1] for name in names[:SHOWN])
    return [f"warning: not of the model, and left out of {path}: {named}{more}"] if names else []


def head_names(method: AnyMethod, own: dict[str, Tensor], recipe: Recipe, num_classes: int, task: Task) -> set[str]:
    """The tensors whose shape depends on the number of classes, as a model of one class more shows."""
    with names_and_shapes():
        larger = method.build_model(recipe, num_classes + 1, task).state_dict()
    return {name for name, value in own.items() if larger[name].shape != value.shape}


def open_weights(source: str, *, trust: bool) -> tuple[Path, Checkpoint]:
    """The file behind what a person named as weights to start from, and what it holds.

    Raises:
        UsageError, WeightsError, DataError: as `locate`, or the file is damaged or refused.
    """
    path, _ = _resolve(locate(source), None)
    return path, _read(path, trust=trust)


def _read(path: Path, *, trust: bool, entry: Entry | None = None) -> Checkpoint:
    with refused_leaves_nothing(path):
        return read_checkpoint(path, trust=trust, entry=entry)


def _resolve(path: Path, entry: Entry | None) -> tuple[Path, str]:
    """The weight file behind a run folder, a checkpoint folder or a file, and words for it."""
    if path.is_file():
        if (path.parent / MANIFEST).is_file() and path.suffix == ".safetensors":
            check_whole(path.parent, path.name)
        return path, str(path)
    best, missing = False, ""
    if (path / "checkpoints").is_dir():
        run = RunFolder(path)
        newest, step = run.newest(), run.best_step()
        if newest is None:
            raise WeightsError(f"{path} holds no checkpoint; train it first, or resume it with --resume auto")
        best = step is not None and run.folder(step).is_dir()
        folder = run.folder(step) if step is not None and best else newest
        if step is not None and not best:
            missing = f"; the best, step {step}, is missing"
            LOG.warning(
                "%s does not have its best checkpoint, step %d; the newest, %s, is taken", path, step, newest.name
            )
    elif any((path / name).is_file() for name in (MANIFEST, PROGRESS)):
        folder = path
    elif (found := weights_in(path)) is not None:  # another program's
        return found, str(path)
    else:
        raise WeightsError(
            f"{path} is not a run folder and no checkpoint folder; give one that `attnbias train` wrote, or a file, or "
            "a folder of Accelerate (model.safetensors, or its .index.json) or of torch.distributed.checkpoint"
        )
    check_whole(folder, PROGRESS)
    progress = RunFolder.read_progress(folder)
    averaged = entry == "ema" or (entry is None and best and progress.best_weights == "ema")
    file = folder / ("ema.safetensors" if averaged else "model.safetensors")
    if averaged and not file.is_file():
        check_whole(folder)
        raise WeightsError(f"{folder} holds no {file.name}; the run kept no moving average (--ema-decay)")
    check_whole(folder, file.name)
    kind = "averaged" if averaged else "raw"
    return file, f"{path} ({'best' if best else 'newest'} checkpoint, step {progress.step}, {kind} weights{missing})"


@dataclass(frozen=True)
class StoredInfo:
    """What one of our files says of itself."""

    recipe: Recipe
    classes: tuple[str, ...]
    task: Task


def info_in(path: Path, metadata: dict[str, str], method: AnyMethod) -> StoredInfo | None:
    """What one of our files says of itself; None for any other file."""
    if KEY not in metadata:
        return None
    with refused_leaves_nothing(path), reading(path, "fetch it again, or train again", WeightsError):
        stored = _Metadata.model_validate(parse_json(metadata[KEY]))
    if stored.method != method.name:
        raise WeightsError(
            f"{path} is a checkpoint of '{stored.method}', not of '{method.name}'; name {stored.method} as the method"
        )
    try:
        return StoredInfo(parse(method.recipe_type, stored.recipe), stored.classes, stored.task)
    except UsageError as error:
        raise WeightsError(f"{path} was written by another version of attnbias: {error}") from None


class _Metadata(StoredModel, extra="ignore"):
    """Our entry in a weight file's metadata, as `weights_metadata` writes it."""

    method: Annotated[str, AfterValidator(known_method)]
    task: Task
    recipe: Fields
    classes: Annotated[Items[FileName], Field(max_length=MOST_CLASSES)]


def read_published(
    method: AnyMethod, state: dict[str, Tensor], path: Path, backbone: str | None = None
) -> tuple[dict[str, Tensor], Fields]:
    """Weights under our names, and the fields that they tell; no fields where they are another model's."""
    try:
        converted = method.convert(state)
        told = method.infer(converted)
        if not told and backbone is not None and isinstance(method, LoadsByName):
            told = method.infer_named(converted, backbone)
        return converted, told
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except FOREIGN:
        return state, {}


def fitted(method: AnyMethod, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for the model's image size; another model's come back as they are, and are refused by their shapes."""
    try:
        return method.fit_resolution(model, state)
    except FOREIGN:
        return state


def _describe_published(
    method: AnyMethod,
    state: dict[str, Tensor],
    inferred: Fields,
    path: Path,
    overrides: Fields,
    recipe_name: str | None,
    data_root: Path | None,
    *,
    of_imagenet: bool = False,
) -> tuple[Recipe, tuple[str, ...], Task, str]:
    """Find the recipe of a published file: what its weights tell, the flags, and a named recipe for the rest, whose
    name is the last.

    Classes are those of the recipe's dataset where their number is the same; of a library's network (`of_imagenet`)
    those of ImageNet's set of that size.
    """
    if not inferred:
        others = (name for name in METHODS if name != method.name)
        other = next((name for name in others if _is_whole(get_method(name), state, path, data_root)), None)
        hint = f"; it is one of '{other}': attnbias val {other} --load-from {path}" if other else ""
        raise WeightsError(f"{path} is not a checkpoint of '{method.name}'{hint}")
    num_classes, inferred = inferred["num_classes"], {n: v for n, v in inferred.items() if n != "num_classes"}
    for name, value in inferred.items():
        # The image's size is free: a method fits what depends on it, such as position embeddings.
        if name != "image_size" and name in overrides and overrides[name] != value:
            flag = flag_of(name)
            raise UsageError(
                f"{flag} {overrides[name]} contradicts {path}, whose weights say {value}; leave {flag} out"
            )
    if recipe_name is None:
        recipe_name = _nearest_recipe(method, num_classes, inferred, overrides)
    base = method.named_recipe(recipe_name).recipe
    recipe = override(base, {**inferred, **overrides})
    if other_network(recipe, base) is not None:
        recipe = override(recipe, {"init": FRESH})
    info = DATASETS.get(recipe.dataset)
    names, task = _classes_and_task(recipe.dataset, data_root, info.task if info else "multilabel")
    if of_imagenet and (known := names_of_size(num_classes)):
        names = known
    if len(names) != num_classes:
        names = tuple(f"class {position}" for position in range(num_classes))
    return recipe, names, task, recipe_name


def _classes_and_task(dataset: str, data_root: Path | None, otherwise: Task) -> tuple[tuple[str, ...], Task]:
    """The class names of a dataset and its task; where it is not prepared, the names that are known of it, and the task
    `otherwise`: a model can be asked about one's own images where its dataset is not."""
    try:
        index = open_split(dataset, "val", data_root)
    except DataError:
        return known_class_names(dataset), otherwise
    return index.classes, index.task


def _is_whole(method: AnyMethod, state: dict[str, Tensor], path: Path, data_root: Path | None) -> bool:
    """Whether weights are all of a model of a method, and nothing else: names that are alike are not enough."""
    try:
        converted, inferred = read_published(method, state, path)
        if not inferred:
            return False
        recipe, classes, task, _ = _describe_published(method, state, inferred, path, {}, None, data_root)
        with names_and_shapes():
            outline = method.build_model(recipe, len(classes), task)
        return bool(match_state(outline.state_dict(), fitted(method, outline, converted)))
    except (WeightsError, UsageError, *FOREIGN):
        return False


def _belongs_to(method: AnyMethod, state: dict[str, Tensor], path: Path) -> bool:
    try:
        return bool(read_published(method, state, path)[1])
    except WeightsError:
        return False


def _nearest_recipe(method: AnyMethod, num_classes: int, inferred: Fields, overrides: Fields) -> str:
    """The first named recipe that agrees with the flags' dataset, the number of classes, and most inferred fields."""

    def disagreement(name: str) -> tuple[bool, bool, int]:
        recipe = method.recipes[name].recipe
        info = DATASETS.get(recipe.dataset)
        return (
            overrides.get("dataset", recipe.dataset) != recipe.dataset,
            info is None or info.classes != num_classes,
            sum(getattr(recipe, field) != value for field, value in inferred.items()),
        )

    return min(method.recipes, key=disagreement)
