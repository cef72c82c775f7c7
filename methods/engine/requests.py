"""What a command is asked to do: one typed request each, without torch.

A request's fields are the options of its command (`option` in recipe.py, as for recipes): their names, help texts,
groups and ranges stand here and nowhere else. The engine takes the request, the command line only fills it, and its
JSON is what each process of the command gets. Python callers fill it themselves.

What can be told to be wrong without reading weights and without work is refused by `Request.refuse`, which every
command passes: the part of a request that has an option checks it, and goes on with `super().refuse()`. What depends
on a dataset comes last.

In help texts, `{name}` is filled in for each method (cli/options.py): its name, its kinds of map.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from attnbias.data.names import real_path
from attnbias.data.reading import Json, is_whole_number, parse_json, shown
from attnbias.data.registry import check_splits, ready
from attnbias.methods import METHODS
from attnbias.methods.engine.description import EXPLAINERS, Description
from attnbias.methods.engine.errors import NotFiniteError, UsageError, did_you_mean
from attnbias.methods.engine.recipe import FRESH, OLD_NAMES, Recipe, check_values, fields_of, flag_of, override
from attnbias.methods.engine.recipe import option as recipe_option
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.types import Fields
from attnbias.weights.errors import WeightsError

Q = TypeVar("Q", bound="Request")

option = partial(recipe_option, panel="")
"""Declare an option outside of any group."""
RUN = "Run (does not change the numbers)"
run_option = partial(recipe_option, panel=RUN)

SPLIT_LIMIT = 48
"""Images of a split that are drawn where --limit says nothing."""
CHECK_LIMIT = 16
"""Images that an exported graph is checked on where --limit says nothing."""
EXPORTED_MAPS = 5
"""Maps per image of an exported graph where --top-k says nothing."""
OWN_PRIORS = ("class", "text")
"""What a second pass looks for where no file says: what is asked for, as the model knows it."""


def check_different(named: list[str] | list[Path]) -> None:
    """Refuse what would stand beside itself.

    Raises:
        UsageError: two of these are one file or folder, or one name.
    """
    places = [real_path(Path(each)) for each in named]
    for each, place in zip(named, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{each} is named twice, and would stand beside itself; name each once")


class Request(BaseModel):
    """What one command is asked to do. A tuple is typed with commas, a list by repeating the option."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _in_its_form(cls, value: object, info: ValidationInfo) -> object:
        """A path may come as text, several values as any list or tuple, one of them alone, and text with commas."""
        form = required(cls.model_fields[str(info.field_name)].annotation)
        several = get_origin(form)
        if value is None or several not in (list, tuple):
            return _as_path(value) if form is Path else value
        if isinstance(value, str) and several is tuple:
            value = [part.strip() for part in value.split(",") if part.strip()]
        values = value if isinstance(value, list | tuple) else [value]
        if several is tuple and not values and cls.model_fields[str(info.field_name)].default != ():
            raise ValueError("it names nothing; leave it out, or name one")
        one = get_args(form)[0]
        if one is Path:
            values = [_as_path(each) for each in values]
        elif one is int and several is tuple:
            values = [int(each) if isinstance(each, str) and is_whole_number(each) else each for each in values]
        if several is tuple and (again := [each for each in values if values.count(each) > 1]):
            raise ValueError(f"it names {again[0]} twice; name each once")
        return several(values)

    def companions(self) -> Mapping[str, tuple[bool, str]]:
        """Options that do something only beside others: whether they do in this request, and words for why not."""
        return {}

    @model_validator(mode="after")
    def _sets_nothing_that_changes_nothing(self) -> Self:
        for name, (useful, why) in self.companions().items():
            if not useful and getattr(self, name) != type(self).model_fields[name].default:
                raise UsageError(f"{flags_of(type(self), name)[0]} changes nothing {why}")
        return self

    @property
    def methods(self) -> list[Description]:
        """The methods whose models are asked for, as far as a person said which."""
        return []

    @property
    def asked_maps(self) -> list[str]:
        """The kinds of map that were typed."""
        typed: str | None = getattr(self, "map", None)
        return [] if typed is None or typed == "own" else [typed]

    @property
    def computed_with(self) -> list[str]:
        """What was typed that models compute with, as it is typed."""
        return []

    @contextmanager
    def finite_answers(self) -> Iterator[None]:
        """The block in which models are asked. NaN or infinity among their answers is laid to what was typed that they
        compute with, else to their weights, which were looked at when they were read: they are finite, and too large.

        Raises:
            UsageError, WeightsError: see above.
        """
        try:
            yield
        except NotFiniteError as error:
            if self.computed_with:
                typed = ", ".join(self.computed_with)
                raise UsageError(
                    f"{error.what}: so the model answers with {typed}; leave it out, or take another value"
                ) from None
            raise WeightsError(
                f"{error.what}: the weights are damaged, with numbers too large to compute with; load others"
            ) from None

    def refuse(self) -> None:
        """Refuse what this request, the disk and the descriptions of methods tell to be wrong. Reads no weights, and
        imports torch for the name of a network alone.

        Raises:
            UsageError: there is no such thing. DataError, WeightsError: a file or a dataset is missing or damaged.
        """
        for kind in self.asked_maps:
            for method in self.methods:
                method.check_map(kind)
            if not self.methods:
                names = (name for each in _all_methods() for name in (*each.maps, *each.explainers()))
                _check_any("map", kind, names, "attnbias list methods")

    @classmethod
    def of(cls: type[Q], values: Mapping[str, object]) -> Q:
        """Build a request, and check it; what does not fit is named by its option.

        Raises:
            UsageError, DataError, WeightsError: as `read` and `refuse`.
        """
        request = cls.read(values)
        request.refuse()
        return request

    @classmethod
    def read(cls: type[Q], values: Mapping[str, object]) -> Q:
        """Build a request; what does not fit is named by its option.

        Raises:
            UsageError: a value is of the wrong kind or out of range, or two of them contradict each other.
        """
        for name, value in values.items():
            if any("\0" in str(each) for each in (value if isinstance(value, list | tuple) else [value])):
                raise UsageError(f"{flags_of(cls, name)[0]} {shown(value)}: a text holds a NUL")
            if value == "" and name in cls.model_fields and cls.model_fields[name].is_required():
                raise UsageError(f"{flags_of(cls, name)[0]} is empty")
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name, message = str(first["loc"][0]), first["msg"].removeprefix("Value error, ")
            if name not in cls.model_fields:
                raise UsageError(
                    f"{cls.__name__} has no field '{name}'{did_you_mean(name, cls.model_fields)}"
                ) from None
            value = ",".join(map(str, first["input"])) if isinstance(first["input"], tuple) else first["input"]
            raise UsageError(f"{flags_of(cls, name)[0]} {shown(value)}: {message}") from None

    def to_json(self) -> str:
        """Its JSON, for another process. Pydantic's own writer refuses file names that are not UTF-8."""
        return json.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Undo `to_json`."""
        return cls.model_validate(parse_json(text), strict=False)


def required(annotation: Any) -> Any:
    """A type without the None that stands beside it."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return parts[0] if get_origin(annotation) in (Union, types.UnionType) and len(parts) == 1 else annotation


def _as_path(value: object) -> object:
    if value == "":
        raise ValueError("it is empty; a path would be the working folder")
    return Path(value) if isinstance(value, str | os.PathLike) else value


def split_options(
    command: str, kind: type[Request], method: Description, given: Mapping[str, object], own: Container[str] = ()
) -> tuple[dict[str, object], Fields]:
    """Keyword arguments of a Python caller: the options of a command's request, and fields of the method's recipe.
    Options in `own` are none: the function fills them by arguments of its own.

    Raises:
        UsageError: a name is neither, or a field that only training reads; the nearest name is offered.
    """
    fields = fields_of(method.recipe_type, training=kind is TrainRequest)
    old = [name for name, today in OLD_NAMES.items() if today in fields]
    options = options_of(kind, own)
    for name in given:
        if name in method.recipe_type.model_fields and name not in (*options, *fields):
            raise UsageError(f"{command} has no option '{name}': only training reads it")
        if name not in (*options, *fields, *old):
            raise UsageError(f"{command} has no option '{name}'{did_you_mean(name, [*options, *fields])}")
    asked = {name: value for name, value in given.items() if name in options}
    return asked, {name: value for name, value in given.items() if name not in options}


def options_of(kind: type[Request], but: Container[str] = ()) -> list[str]:
    """The fields of a request that are options of its command."""
    return [name for name in kind.model_fields if spelled(kind, name) is not None and name not in but]


def spelled(kind: type[BaseModel], name: str) -> Json | None:
    """What an option says of how it is typed (`option`); None of a field that is none."""
    extra = kind.model_fields[name].json_schema_extra
    return dict(extra) if isinstance(extra, dict) else None


def flags_of(kind: type[BaseModel], name: str) -> list[str]:
    """What a person types for a field: `--data-root` or `--root`."""
    return str((spelled(kind, name) or {}).get("flags") or flag_of(name)).split()


def _all_methods() -> list[Description]:
    return [get_description(name) for name in METHODS]


def _check_any(what: str, name: str, known: Iterable[str], listed: str) -> None:
    """Refuse a name that no method has; the command `listed` shows those that there are."""
    names = {*known}
    if name not in names:
        raise UsageError(f"no method has a {what} '{name}'{did_you_mean(name, sorted(names))}; see: {listed}")


def _check_network(method: Description, name: str | None) -> None:
    """Refuse a network that the method does not take. Names that its recipes have need no look, which imports torch.

    Raises:
        UsageError: see above; the nearest name is offered.
    """
    known = {getattr(named.recipe, "backbone", None) for named in method.recipes.values()}
    if name is None or name in known:
        return
    if method.backbones == "vision transformers":
        from attnbias.methods.engine.vision_transformers import outline_of

        outline_of(name)
    else:
        from attnbias.methods.engine.backbones import check_name

        check_name(name)


def check_paths(paths: Iterable[Path]) -> None:
    """Refuse images, or folders of them, that are missing.

    Raises:
        UsageError: the first of them.
    """
    for path in paths:
        if not (path.is_dir() or path.is_file()):
            raise UsageError(f"no file or folder {path}")


# What several commands have in common ---------------------------------------------------------------------------------


class Datasets(Request):
    """A command that reads prepared datasets."""

    data_root: Path | None = run_option(
        None, "Where prepared datasets stand.", flags="--data-root --root", shown="$ATTNBIAS_DATA or ./datasets"
    )


class Overwriting(Request):
    """A command that may write again what it wrote before."""

    overwrite: bool = run_option(False, "Replace what an earlier run of the command wrote.", often=True)


class Reading(Datasets):
    """A command that reads weights."""

    trust_checkpoint: bool = option(False, "Read pickles that may run code.")


class Images(Reading):
    """A command that reads images."""

    on_bad_image: Literal["error", "skip"] = run_option("error", "An unreadable image: stop, or leave out and say so.")


class Telling(Reading):
    """A command that is told what published weights do not tell of themselves."""

    recipe: str | None = option(
        None, "Named recipe for what a published file does not tell (lam, normalisation).", complete="recipes"
    )
    fields: Fields = {}
    """Fields of the recipe that go before what the weights say."""
    in_memory: bool = False
    """Whether the models are loaded already; where they came from then tells nothing of their dataset."""

    @property
    def own_method(self) -> Description | None:
        """The method that `recipe` and `fields` are of; None where only the weights say."""
        name: str | None = getattr(self, "method", None)
        return None if name is None else get_description(name)

    @property
    def methods(self) -> list[Description]:
        return [] if self.own_method is None else [self.own_method]

    @property
    def computed_with(self) -> list[str]:
        typed = {
            name: ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            for name, value in self.fields.items()
            if name != "dataset"
        }
        return [*super().computed_with, *(f"{flag_of(name)} {value}" for name, value in typed.items())]

    @property
    def sources(self) -> list[str]:
        """The weights that `load_from` names."""
        named: str | list[str] = getattr(self, "load_from", [])
        return [named] if isinstance(named, str) else named

    @property
    def reads(self) -> list[str | Path]:
        """What was typed that may be a file which is read: no such file is written."""
        paths: list[Path] = getattr(self, "paths", [])
        return [*self.sources, *paths, *([] if self.recipe is None else [self.recipe])]

    @property
    def opened_splits(self) -> tuple[str, ...]:
        """Splits of the dataset that are read."""
        return ()

    @property
    def opened_datasets(self) -> list[str]:
        """The datasets whose splits are read: the one that was typed, else those that weights are known to be of before
        they are read."""
        if "dataset" in self.fields or self.in_memory:
            return [self.fields["dataset"]] if "dataset" in self.fields else []
        from attnbias.methods.engine.published import dataset_of

        found = [dataset_of(source, self.own_method, self.recipe) for source in self.opened_weights]
        return list(dict.fromkeys(name for name in found if name is not None))

    @property
    def opened_weights(self) -> list[str]:
        """The weights whose dataset is read."""
        return self.sources

    def refuse(self) -> None:
        super().refuse()
        own = self.own_method
        check_different([] if self.in_memory else self.sources)
        if own is not None:
            check_values(own.recipe_type, self.fields)
            _check_network(own, self.fields.get("backbone"))
        if self.recipe is not None and own is not None:
            own.named_recipe(self.recipe)
        elif self.recipe is not None:
            names = (name for each in _all_methods() for name in each.recipes)
            _check_any("recipe", self.recipe, names, "attnbias list recipes")
        for dataset in self.opened_datasets if self.opened_splits else ():
            if "dataset" in self.fields or ready(dataset, self.data_root):  # else the weights are looked at first
                check_splits(dataset, self.opened_splits, self.data_root)


class Steered(Request):
    """A command whose maps may be told what to look for."""

    prior: str | None = option(
        None,
        "What the second pass looks for: what is asked for, as the model knows it, or vectors by name.",
        metavar="class|text|FILE.npz",
        shown="{own prior}",
        needs="steered_maps",
    )
    gain: float | None = option(
        None, "Strength of what is fed back.", ge=0, shown="the method's own", needs="steered_maps", often=False
    )

    def refuse(self) -> None:
        super().refuse()
        if self.prior is None and self.gain is None:
            return
        for method in self.methods:
            self.check_steering(method, self.asked_maps)
        if self.prior is not None and self.prior not in OWN_PRIORS:
            from attnbias.methods.engine.prior_files import read_priors

            read_priors(Path(self.prior))

    @property
    def computed_with(self) -> list[str]:
        return [*super().computed_with, *([] if self.gain is None else [f"--gain {self.gain}"])]

    def check_steering(self, method: Description, kinds: Collection[str]) -> None:
        """Refuse `--prior` and `--gain` where a method's maps of these kinds do not follow them; no kinds = its own.

        Raises:
            UsageError: see above.
        """
        flag = "--prior" if self.prior is not None else "--gain"
        if not method.steered_maps:
            raise UsageError(f"{flag}: method '{method.name}' is not steered by a prior; leave {flag} out")
        if kinds and not {*kinds} & {*method.steered_maps}:
            raise UsageError(
                f"{flag} changes nothing for --map {', '.join(kinds)}; use one of: {', '.join(method.steered_maps)}"
            )
        own = "text" if method.reads_texts else "class"
        if self.prior in OWN_PRIORS and self.prior != own:
            raise UsageError(f"--prior {self.prior}: method '{method.name}' is asked by {own}; use {own}, or a file")
        if self.prior not in (None, own) and Path(str(self.prior)).suffix != ".npz":
            raise UsageError(f"--prior {self.prior}: expected {own}, or a file that ends in .npz")


class OfAnyMethod(Telling):
    """A command that learns from the weights whose they are."""

    load_from: str = option(..., "A run folder, .safetensors or published file, a name or a URL.")
    method: str | None = option(None, "Whose weights they are.", shown="the weights say", complete="methods")
    recipe: str | None = option(None, "Named recipe for what a published file does not tell (lam ...).")

    @field_validator("method")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            get_description(name)
        return name


class MatchesClasses(Request):
    """A command that reads a dataset whose classes may be others than the model's."""

    class_map: Path | None = option(
        None,
        "Which of the model's classes is which of the dataset's: a CSV with the columns model and dataset, or JSON.",
        metavar="FILE",
        shown="equal names and synonyms",
        often=False,
    )

    def refuse(self) -> None:
        super().refuse()
        if self.class_map is not None:
            from attnbias.data.class_matching import read_pairs

            read_pairs(self.class_map)
        self.check_class_map(self.methods)

    def check_class_map(self, methods: Collection[Description]) -> None:
        """Refuse a class map where no model takes one.

        Raises:
            UsageError: see above.
        """
        if self.class_map is not None and methods and not any(method.matches_classes for method in methods):
            names = " and ".join(f"'{method.name}'" for method in dict.fromkeys(methods))
            raise UsageError(f"--class-map is for plain classifiers, not for {names}; leave it out")


class RunsFunctions(Request):
    """A command that takes a network which a function of one's own makes."""

    weights_file: Path | None = option(
        None, "A state dict for the network that --load-from MODULE:FUNCTION makes.", metavar="FILE", often=False
    )

    @model_validator(mode="after")
    def _fills_a_network(self) -> Self:
        from attnbias.methods.engine.published import names_function

        named = getattr(self, "load_from", [])
        sources = [named] if isinstance(named, str) else named
        if self.weights_file is not None and not any(map(names_function, sources)):
            raise UsageError(
                "--weights-file changes nothing without MODULE:FUNCTION, whose network it fills; a file of a network "
                "of timm or torchvision is a model itself: plain:FILE with --backbone NAME"
            )
        return self

    def refuse(self) -> None:
        super().refuse()
        if self.weights_file is not None and not self.weights_file.exists():
            raise WeightsError(f"--weights-file {self.weights_file} is missing")


class PicksWeights(Request):
    """A command that takes raw or averaged weights of a checkpoint."""

    weights: Literal["raw", "ema"] | None = option(
        None, "Which weights of a checkpoint.", shown="those of the best metric"
    )

    @property
    def entry(self) -> Literal["model", "ema"] | None:
        """The part of a weight file that is read."""
        return "model" if self.weights == "raw" else self.weights


class FromWeights(Telling, Overwriting, PicksWeights):
    """A command that answers with weights."""


class MixedPrecision(Request):
    """A command whose passes through the network may be in mixed precision. Those that write or judge what must be
    exact (export, priors, audit) are always in float32."""

    amp: Literal["no", "fp16", "bf16", "tf32", "auto"] = option(
        "no",
        "Precision of passes through the network: no = float32, as a run logs its figures; auto = bf16 on GPUs that "
        "have it, else fp16, on a CPU no.",
        often=False,
    )

    @property
    def computed_with(self) -> list[str]:
        return [*super().computed_with, *([] if self.amp == "no" else [f"--amp {self.amp}"])]


class Machine(Request):
    """What a command computes on; in all of them alike."""

    gpus: int | None = run_option(
        None, "GPUs: 0 = CPU, or 1.", ge=0, le=1, metavar="N", shown="1 if there is one", often=True, as_text=True
    )
    device: str | None = run_option(
        None,
        "auto, cpu, cuda, cuda:1 ... or mps (never tried); auto = cuda, else mps, else cpu.",
        metavar="DEVICE",
        shown="auto",
    )
    threads: int | None = run_option(None, "CPU threads a process.", ge=1, le=4096)
    workers: int | None = run_option(
        None, "Loader processes a process.", ge=0, le=4096, shown="0 on CPU, up to 16 a GPU"
    )
    cards: tuple[int, ...] = ()
    """The GPUs that `gpus` names, of those that the process sees; empty where it says how many."""

    @model_validator(mode="before")
    @classmethod
    def _counts_or_names_gpus(cls, values: Any) -> Any:
        """`2` is how many, `0,2` and `2,` are which."""
        typed = values.get("gpus")
        if not isinstance(typed, str):
            return values
        numbers = [part.strip() for part in typed.split(",") if part.strip()]
        if not numbers or not all(map(is_whole_number, numbers)):
            raise UsageError(f"--gpus {typed}: expected how many GPUs (2), or which of them (0,2)")
        if "," not in typed:
            return {**values, "gpus": int(numbers[0])}
        if len({*numbers}) < len(numbers):
            raise UsageError(f"--gpus {typed}: a card is named twice")
        return {**values, "gpus": len(numbers), "cards": tuple(map(int, numbers))}


class Processes(Machine):
    """A command that may share its work among processes."""

    gpus: int | None = run_option(
        None,
        "How many GPUs of this machine; 0 = CPU. With commas, which: 0,2.",
        ge=0,
        metavar="N|N,N...",
        shown="1 if there is one",
        often=True,
        as_text=True,
    )
    processes: int | None = run_option(None, "Processes on the CPU (with --gpus 0).", ge=1, le=4096)
    eval_batch_size: int = run_option(64, "Images at once in evaluation, a process.", ge=1, le=2**31)
    shutdown_timeout: int = 30
    """Seconds that processes have to end in, once they are asked to."""


first_argument = partial(
    option,
    ...,
    "A run folder, weight file, name or URL, timm:NAME, torchvision:NAME, transformers:NAME, MODULE:FUNCTION of yours; "
    "METHOD:FILE where it does not say whose.",
    argument=True,
    metavar="MODEL",
)
"""Declare the model; in the command's own class, where it stands before its other arguments."""


class OfOneModel(OfAnyMethod, FromWeights, RunsFunctions):
    """A command whose first argument is a model, of whatever method."""

    @model_validator(mode="before")
    @classmethod
    def _names_its_method(cls, values: Any) -> Any:
        """METHOD:FILE is a file and whose it is."""
        method, source = method_and_source(str(values.get("load_from", "")))
        return values if method is None else {**values, "load_from": source, "method": method}

    def another(self, source: str) -> Self:
        """The same, asked of another model: what was typed of the first one's weights is not of this one's."""
        method, file = method_and_source(source)
        of_the_first: dict[str, object] = {"recipe": None, "fields": {}, "weights": None, "weights_file": None}
        return self.model_copy(update={"load_from": file, "method": method, **of_the_first})


def method_and_source(source: str) -> tuple[str | None, str]:
    """METHOD:FILE as both; where no method stands before it, or a file is called so, what was typed."""
    from attnbias.methods.engine.published import on_disk

    prefix, _, rest = source.partition(":")
    return (prefix, rest) if prefix in METHODS and rest and on_disk(source) is None else (None, source)


# The commands ---------------------------------------------------------------------------------------------------------


class VisualizeRequest(Steered, FromWeights, RunsFunctions, MatchesClasses, Images, MixedPrecision, Machine):
    """Draw where models look, into a folder."""

    method: str
    load_from: list[str] = option(
        ..., "A run folder, .safetensors or published file; repeat to compare, METHOD:FILE for another method."
    )
    paths: list[Path] = option(
        [], "Images or folders of them. None: a split of the dataset.", argument=True, metavar="PATH"
    )
    split: str | None = option(None, "Split of the dataset.", shown="val")
    limit: int | None = option(None, "Only the first N images.", ge=1, shown=f"{SPLIT_LIMIT} of a split")
    top: int | None = option(None, "Draw the N images whose raw first map peaks highest.", ge=1)
    classes: tuple[str, ...] = option(
        (), "Classes to draw, names or numbers, comma-separated.", shown="true and predicted ones"
    )
    questions: list[str] = option(
        [],
        "What to ask of every image (or a hypothesis, or a caption); repeat for several.",
        flags="--question",
        shown="a split's own texts",
        needs="reads_texts",
    )
    maps: list[str] = option(
        [], "{maps and explainers}. Repeat for several.", flags="--map", shown="{default maps}", complete="maps"
    )
    heads: list[Annotated[int, Field(ge=0)]] = option(
        [], "One head, from 0; repeat for several.", flags="--head", shown="all together"
    )
    out: Path = option(Path("gallery"), "Folder for what is written.")
    npz: bool = option(False, "Also write the raw maps, as maps.npz.")
    normalisation: Literal["minmax", "max"] = option(
        "minmax", "Stretch each map between its extremes, or divide by its maximum."
    )
    style: Literal["blend", "published"] = option(
        "blend", "Overlays blended at full size, or 224 x 224 as CSRA's program draws them.", often=False
    )
    opacity: float = option(0.7, "Strength of the map.", ge=0, le=1)
    boxes: bool = option(True, "Annotated boxes of the class.")
    contour: bool = option(False, "Ring the focus, values of at least 0.5.")

    def companions(self) -> Mapping[str, tuple[bool, str]]:
        return {
            "split": (not self.paths, "beside images of your own; leave one of them out"),
            "class_map": (not self.paths, "beside images of your own, whose classes are the model's"),
            "contour": (self.style == "blend", "with --style published"),
        }

    @property
    def methods(self) -> list[Description]:
        owners = (method_and_source(source)[0] or self.method for source in self.load_from)
        return [get_description(name) for name in dict.fromkeys(owners)]

    @property
    def asked_maps(self) -> list[str]:
        return self.maps

    @property
    def opened_splits(self) -> tuple[str, ...]:
        return () if self.paths else (self.split or "val",)

    @property
    def opened_weights(self) -> list[str]:
        return self.load_from[:1]

    def refuse(self) -> None:
        check_paths(self.paths)
        self.check_asked(self.methods)
        super().refuse()

    def check_asked(self, methods: Collection[Description]) -> None:
        """Refuse questions to models that are asked by class, classes of those that are asked in words, and both kinds
        of model at once.

        Raises:
            UsageError: see above.
        """
        if len({method.reads_texts for method in methods}) > 1:
            raise UsageError("some of these models are asked in words, others are not; show them one by one")
        for method in methods:
            if self.questions and not method.reads_texts:
                raise UsageError(f"method '{method.name}' is asked by class: use --classes in the place of --question")
            if self.classes and method.reads_texts:
                raise UsageError(f"method '{method.name}' is asked in words: use --question in the place of --classes")


class ExportRequest(Steered, FromWeights, Machine):
    """Write a checkpoint as one graph."""

    method: str
    load_from: str = option(..., "A run folder, .safetensors or published file, a name or a URL.")
    paths: list[Path] = option(
        [], "Images for --check, or folders. None: the evaluation split.", argument=True, metavar="PATH"
    )
    format: Literal["onnx", "torch-export"] = option("onnx", "onnx (needs attnbias[export]), or torch-export (.pt2).")
    out: Path | None = option(None, "What to write.", metavar="FILE", shown="{method}.onnx or .pt2")
    check: bool = option(False, "Run it on real images and hold it against the model.")
    limit: int | None = option(None, "Images of --check.", ge=1, shown=str(CHECK_LIMIT))
    map: str | None = option(None, "{maps}.", shown="{default map}")
    head: int | None = option(None, "One head, from 0.", ge=0, shown="all together")
    classes: tuple[str, ...] = option(
        (),
        "Classes that maps are of, names or numbers, comma-separated.",
        shown="the --top-k best of each image",
    )
    top_k: int | None = option(None, "Maps per image, of its best classes.", ge=1, shown=str(EXPORTED_MAPS))
    gpus: int | None = run_option(
        None,
        "GPU of the model that --check asks: 0 = CPU, or 1.",
        ge=0,
        le=1,
        metavar="N",
        shown="0",
        often=True,
        as_text=True,
    )
    device: str | None = run_option(None, "Where --check asks the model: auto, cpu, cuda, cuda:1 ...", shown="cpu")

    @model_validator(mode="after")
    def _checks_what_is_named(self) -> Self:
        if self.paths and not self.check:
            raise UsageError("images are for --check; add it, or leave them out")
        return self

    def companions(self) -> Mapping[str, tuple[bool, str]]:
        of_check = dict.fromkeys(("limit", "gpus", "device", "threads", "workers"), (self.check, "without --check"))
        return {**of_check, "top_k": (not self.classes, "with --classes")}

    @property
    def opened_splits(self) -> tuple[str, ...]:
        return ("val",) if self.check and not self.paths else ()

    def refuse(self) -> None:
        super().refuse()
        check_paths(self.paths)


class PredictRequest(OfAnyMethod, FromWeights, RunsFunctions, Images, MixedPrecision, Processes):
    """Say what a model says of one's own images: classes, pixels, answers, or which of them a text is about."""

    paths: list[Path] = option(
        ...,
        "Images, or folders of them; of models that are asked in words also .csv or .json files of questions.",
        argument=True,
        metavar="PATH",
    )
    top_k: int | None = option(
        None,
        "At most so many classes or answers, or images of --find.",
        flags="--top-k --top",
        ge=1,
        shown="single-label and answers 5, --find 10",
    )
    threshold: float | None = option(
        None,
        "Only classes or answers of at least this score, or share of the pixels.",
        ge=0,
        le=1,
        shown="multi-label 0.5",
    )
    questions: list[str] = option(
        [], "What to ask of every image (or a hypothesis); repeat for several.", flags="--question", shown="none"
    )
    find: str | None = option(None, "Rank the images by how well this text fits (retrieval).", metavar="TEXT")
    json_file: str | None = option(
        None, "Write the classes as JSON; - is standard output.", flags="--json", metavar="FILE"
    )
    csv_file: Path | None = option(
        None, "Write the scores of all classes, one row per image.", flags="--csv", metavar="FILE"
    )
    submission: Path | None = option(
        None, "Write the answers in the form that VQA's test server takes.", metavar="FILE.json"
    )
    out: Path | None = option(None, "Folder for label maps (PNGs of class numbers with a palette) and overlays.")

    def companions(self) -> Mapping[str, tuple[bool, str]]:
        every = "with --submission, which is an answer to every question"
        return {
            "threshold": (
                self.find is None and self.submission is None,
                every if self.find is None else "with --find, whose scores are no probabilities",
            ),
            "on_bad_image": (self.submission is None, every),
        }

    def refuse(self) -> None:
        super().refuse()
        for flag, texts in (("--question", self.questions), ("--find", [] if self.find is None else [self.find])):
            if not all(text.strip() for text in texts):
                raise UsageError(f"{flag} is empty; expected a text")
        check_paths(self.paths)


class PriorsRequest(OfAnyMethod, FromWeights, Images, Machine):
    """Write vectors that a second pass can look for."""

    load_from: str = option(
        ..., "A run folder, .safetensors or published file, a name or a URL.", argument=True, metavar="RUN"
    )
    split: str | None = option(None, "Split whose objects or images are taken.", shown="train")
    made_from: Literal["objects", "images"] | None = option(
        None, "Mean tokens of a class's objects, or of its images.", shown="objects, where masks or boxes are known"
    )
    texts: list[str] = option(
        [], "A text, of a model that is asked in words; repeat for several.", flags="--text", shown="none"
    )
    limit: int | None = option(None, "Only the first N images.", ge=1, shown="all")
    out: Path = option(Path("priors.npz"), "What to write.", metavar="FILE.npz")

    def companions(self) -> Mapping[str, tuple[bool, str]]:
        return dict.fromkeys(("split", "made_from", "limit", "on_bad_image"), (not self.texts, "with --text"))

    @property
    def opened_splits(self) -> tuple[str, ...]:
        return () if self.texts else (self.split or "train",)

    def refuse(self) -> None:
        for method in self.methods:
            if not method.steered_maps:
                raise UsageError(f"method '{method.name}' is not steered by a prior")
        super().refuse()

    @field_validator("out")
    @classmethod
    def _is_npz(cls, out: Path) -> Path:
        if out.suffix != ".npz":
            raise UsageError(f"--out {out}: expected a name that ends in .npz")
        return out


class LoadRequest(OfAnyMethod, FromWeights, RunsFunctions):
    """Hold a model in memory, for Python."""


class InspectRequest(OfAnyMethod):
    """Say what a weight file holds."""

    load_from: str = option(
        ..., "A weight file, a run folder, a published name or a URL.", argument=True, metavar="FILE"
    )


class ConvertRequest(InspectRequest, FromWeights):
    """Write weights as a .safetensors of ours, or plain."""

    to: Path = option(..., "What to write.", metavar="FILE.safetensors")
    to_plain: bool = option(False, "Only the part whose architecture is timm's or torchvision's, by their names.")

    @field_validator("to")
    @classmethod
    def _is_safetensors(cls, to: Path) -> Path:
        if to.suffix != ".safetensors":
            raise UsageError(f"--to {to}: expected a name that ends in .safetensors")
        return to


class PushRequest(PicksWeights, Overwriting):
    """Write a run's weights to Hugging Face's hub."""

    run: str = option(
        ..., "A run folder, one of its checkpoints, or a .safetensors of ours.", argument=True, metavar="RUN"
    )
    target: str = option(..., "Where to.", argument=True, metavar="hf://ORGANISATION/NAME")
    private: bool = option(False, "A repository that only its owners see.")
    overwrite: bool = option(False, "Add the weights to a repository that is there.")


masks_option = partial(
    recipe_option,
    None,
    "estimate: objects of a split that has none, by a segmenter; marked as such.",
    shown="none",
)
segmenter_option = partial(
    recipe_option,
    "deeplabv3_resnet50",
    "That segmenter: one of torchvision's, NAME:FILE with weights of yours.",
    metavar="NAME[:FILE]",
    often=False,
)

BIAS, CONTEXT, ROBUST = "Attention bias", "Reliance on context", "Robustness"
bias_option, context_option, robust_option = (partial(recipe_option, panel=panel) for panel in (BIAS, CONTEXT, ROBUST))


class ValRequest(Steered, FromWeights, RunsFunctions, MatchesClasses, Images, MixedPrecision, Processes):
    """Score checkpoints on splits, and measure what else is asked for."""

    method: str
    load_from: list[str] = option(..., "A run folder, .safetensors or published file; repeat to compare.")
    split: tuple[str, ...] | None = option(
        None, "Splits, comma-separated.", shown="val; none where --imagenet-* sets are asked for"
    )
    limit: int | None = option(
        None,
        "Only N samples of each split, drawn by chance (seed 0).",
        metavar="N",
        ge=1,
        shown="all",
    )
    per_class: bool = option(False, "Also show the measures of each class, and which are confused.")
    calibration: bool = option(False, "Also measure whether scores are probabilities.", often=False)
    real_labels: bool = option(False, "Also by ImageNet's reassessed labels (ReaL).")
    json_file: str | None = option(None, "All measures as JSON; - is standard output.", flags="--json", metavar="FILE")
    csv_file: Path | None = option(None, "Write scores, one row per sample.", flags="--csv", metavar="FILE")
    bias: bool = bias_option(False, "Hold the attention against the objects' masks or boxes.")
    map: str = bias_option("own", "own, {explainer names}, or one of: {map names}.")
    truth: Literal["masks", "boxes"] | None = bias_option(None, "What objects are.", shown="masks, else boxes")
    objects: Path | None = bias_option(
        None,
        "COCO annotations of the images that texts are about: attention against what a text names.",
        metavar="FILE",
    )
    masks: Literal["estimate"] | None = masks_option(panel=BIAS)
    segmenter: str = segmenter_option(panel=BIAS)
    tau: float = bias_option(0.5, "Threshold of the focus.", ge=0, le=1)
    bias_out: Path | None = bias_option(None, "Write bias.json and bias_samples.csv.", metavar="DIR")
    context: str | None = context_option(
        None,
        "Find classes that lean on co-occurring classes in this split, with the first checkpoint's scores, and "
        "measure them with and without it.",
        metavar="SPLIT",
    )
    reliance: bool = context_option(False, "Also score the object and the context alone.")
    backgrounds: bool = context_option(
        False,
        "Also name objects on other images' contexts, from contexts alone (ImageNet-9), and under noise on either.",
    )
    last_layer: str | None = context_option(
        None,
        "Train the last layer anew on this split, all groups alike: is a bias in the features, or in the head?",
        metavar="SPLIT",
    )
    find_groups: int | None = context_option(
        None,
        "Cluster the images of each class into N groups by what the last layer reads, and measure these.",
        metavar="N",
        ge=2,
    )
    faithfulness: int | None = context_option(
        None, "Deletion and insertion curves of N samples (some 4 x 224 passes each).", metavar="N", ge=1
    )
    imagenet_c: bool = robust_option(False, "The 75 corrupted sets: mCE.")
    imagenet_a: bool = robust_option(False, "Natural adversarial examples.")
    imagenet_r: bool = robust_option(False, "Renditions.")
    imagenet_sketch: bool = robust_option(False, "Sketches.")
    attack: list[str] = robust_option([], "White-box attack on each split; repeat for both.", metavar="fgsm|pgd")
    epsilon: float | None = robust_option(None, "Largest change, in levels of 255.", ge=0, shown="1")
    attack_step: float | None = robust_option(None, "A step, in levels.", ge=0, shown="fgsm 1, pgd 0.5")
    attack_steps: int | None = robust_option(None, "Steps of pgd.", ge=1, shown="5")
    corrupt: tuple[str, ...] = robust_option(
        (),
        "Corrupt each split on the fly, all severities averaged (made here, not the published images).",
        metavar="NAME,...|all",
    )
    watermark: Path | None = robust_option(
        None, "ImageNet-W: its text over the images of each split, in this font (.otf, .ttf).", metavar="FONT"
    )
    severity: tuple[int, ...] = robust_option((1, 2, 3, 4, 5), "Severities of --corrupt.")
    robustness_out: Path | None = robust_option(None, "The table, .json or .csv.", metavar="FILE")
    store: bool = option(False, "Keep the results in the run folder (RUN/evaluations), for compare.")
    cache: Path | None = option(
        None,
        "Keep the splits' images here as bytes, and read these while files and pipeline are the same.",
        metavar="DIR",
        often=False,
    )
    decode: Literal["exact", "fast"] = option(
        "exact", "Reading of images: exact = the papers' pixels; fast = about a level off."
    )

    @field_validator("attack")
    @classmethod
    def _are_attacks(cls, values: list[str]) -> list[str]:
        for name in values:
            if name not in ("fgsm", "pgd"):
                raise UsageError(f"--attack {name}: expected fgsm or pgd")
        return values

    @field_validator("severity")
    @classmethod
    def _are_severities(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not set(values) <= {1, 2, 3, 4, 5}:
            raise ValueError("expected numbers from 1 to 5, comma-separated")
        return values

    def companions(self) -> Mapping[str, tuple[bool, str]]:
        perturbed = bool(self.attack or self.corrupt or self.watermark or self.published_tests)
        holds_objects = self.measures_bias or self.reliance or self.backgrounds
        of_splits = (
            *("per_class", "real_labels", "csv_file", "bias", "bias_out", "context", "reliance", "faithfulness"),
            *("attack", "corrupt", "watermark", "store", "backgrounds", "last_layer", "find_groups", "calibration"),
            "limit",
        )
        return {
            **dict.fromkeys(of_splits, (bool(self.splits), "without --split: no split is scored")),
            **dict.fromkeys(
                ("map", "prior", "gain"),
                (self.measures_bias or self.faithfulness is not None, "without --bias or --faithfulness N"),
            ),
            **dict.fromkeys(("truth", "masks"), (holds_objects, "without --bias or --reliance or --backgrounds")),
            **({} if self.masks is None else {"truth": (False, "beside --masks estimate")}),
            "segmenter": (self.masks is not None, "without --masks estimate"),
            **dict.fromkeys(("tau", "objects"), (self.measures_bias, "without --bias")),
            **dict.fromkeys(("epsilon", "attack_step"), (bool(self.attack), "without --attack")),
            "attack_steps": ("pgd" in self.attack, "without --attack pgd"),
            "severity": (bool(self.corrupt), "without --corrupt"),
            "robustness_out": (perturbed, "without --attack, --corrupt, --watermark or an --imagenet-* set"),
        }

    @property
    def published_tests(self) -> list[str]:
        """The published test sets that are asked for, of imagenet-c, imagenet-a, imagenet-r, imagenet-sketch."""
        names = ("imagenet-c", "imagenet-a", "imagenet-r", "imagenet-sketch")
        return [name for name in names if getattr(self, name.replace("-", "_"))]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are scored."""
        return self.split if self.split is not None else () if self.published_tests else ("val",)

    @property
    def opened_splits(self) -> tuple[str, ...]:
        return tuple(split for split in (*self.splits, self.context, self.last_layer) if split is not None)

    @property
    def kind(self) -> str | None:
        """The kind of map that is measured; None = each model's own."""
        return None if self.map == "own" else self.map

    @property
    def measures_bias(self) -> bool:
        """Whether the attention is held against objects."""
        return self.bias or self.bias_out is not None

    def strength(self, attack: str) -> Fields:
        """What differs from the program's strength of an attack; FGSM is one step."""
        epsilon, step = self.epsilon and self.epsilon / 255, self.attack_step and self.attack_step / 255
        typed: dict[str, float | None] = {"epsilon": epsilon, "step_size": step}
        if attack == "pgd":
            typed["steps"] = self.attack_steps
        elif step is None:
            typed["step_size"] = epsilon
        return {field: value for field, value in typed.items() if value is not None}


GATE = "For machines (exit code 4 where a --fail-if does)"
gate_option = partial(recipe_option, panel=GATE)


class AuditRequest(OfOneModel, MatchesClasses, Images, Machine):
    """Say where a model looks, what it relies on, and whether its map can be trusted."""

    load_from: str = first_argument()
    data: str = option(
        ...,
        "A prepared dataset, or a folder, .csv or COCO .json of yours (prepared first, as by prepare-data).",
        argument=True,
        metavar="DATA",
        complete="datasets",
    )
    split: str | None = option(None, "Split of the dataset.", shown="val")
    limit: int | None = option(None, "Only N images, drawn by chance (seed 0).", metavar="N", ge=1, shown="all")
    map: str = option("own", f"own, {', '.join(EXPLAINERS)}, or another of the method's maps.")
    layer: str | None = option(None, "Layer that an explainer looks at, by its name in the network.", shown="found")
    truth: Literal["masks", "boxes"] | None = option(None, "What objects are.", shown="masks, else boxes, else none")
    masks: Literal["estimate"] | None = masks_option(panel="")
    segmenter: str = segmenter_option(panel="")
    tau: float = option(0.5, "Threshold of the focus.", ge=0, le=1)
    against: str | None = option(
        None, "Another model, before this one: differences on the same images.", metavar="MODEL"
    )
    faithfulness: int = option(16, "Samples that the trust in the map is measured on.", metavar="N", ge=1)
    out: Path = option(Path("audit"), "Folder for report.html, audit.json, classes.csv, samples.csv, worst/.")
    fail_if: list[str] = gate_option(
        [],
        "Condition on the interval: fails where all of it lies beyond. Repeat for several.",
        metavar="FIGURE>NUMBER",
    )
    junit: Path | None = gate_option(None, "The conditions as JUnit XML.", metavar="FILE.xml")
    markdown: Path | None = gate_option(None, "The findings as Markdown.", metavar="FILE.md")
    eval_batch_size: int = run_option(64, "Images at once.", ge=1, le=2**31)

    def companions(self) -> Mapping[str, tuple[bool, str]]:
        return {
            "junit": (bool(self.fail_if), "without --fail-if"),
            "truth": (self.masks is None, "beside --masks estimate"),
            "segmenter": (self.masks is not None, "without --masks estimate"),
        }

    def another(self, source: str) -> Self:
        return super().another(source).model_copy(update={"layer": None})

    def refuse(self) -> None:
        super().refuse()
        for method in self.methods:
            self.check_layer(method)
        if ready(self.data, self.data_root) or not Path(self.data).exists():  # images of one's own are prepared first
            check_splits(self.data, (self.split or "val",), self.data_root)

    def check_class_map(self, methods: Collection[Description]) -> None:
        """One of two models may be of any method."""
        if self.against is None or len(methods) > 1:
            super().check_class_map(methods)

    def check_layer(self, method: Description) -> None:
        """Refuse a layer of models whose explainers have a layer of their own.

        Raises:
            UsageError: see above.
        """
        if self.layer is not None and "layer" not in method.recipe_type.model_fields:
            raise UsageError(
                f"--layer is of plain classifiers; the explainers of '{method.name}' have a layer of their own"
            )


class ExploreRequest(OfOneModel, Images, Machine):
    """Try models by hand, on a page of this machine."""

    load_from: str = first_argument()
    paths: list[Path] = option([], "Images to begin with, or folders of them.", argument=True, metavar="IMAGE")
    beside: list[str] = option([], "Another model, side by side; repeat for more.", metavar="MODEL")
    host: str = option("127.0.0.1", "Address to serve at; any but this machine's own lets others in.", min_length=1)
    port: int = option(0, "Port to serve at; 0 takes one that is free.", ge=0, le=65535)
    overwrite: bool = False
    """Nothing is written."""
    workers: int | None = 0
    """Images come one by one."""

    def refuse(self) -> None:
        super().refuse()
        check_paths(self.paths)


START = "Starting weights"
start_option = partial(recipe_option, panel=START)


class TrainRequest(Images, Processes):
    """Train a method by a recipe. Nothing else changes what is computed, up to the rounding of other kernels."""

    method: str
    out: Path = run_option(..., "Run folder.", flags="--out -o", shown="runs/METHOD/RECIPE", often=True)
    accumulation: int = run_option(1, "Cut each process's share of a batch into this many pieces.", ge=1)
    resume: str | None = run_option(
        None, "`auto` continues the run in --out (or starts it), or a checkpoint folder.", often=True
    )
    overwrite: bool = run_option(False, "Replace the run in --out; nothing but a run.", often=True)
    load_from: str | None = start_option(
        None, "Start from a whole model: a run folder, .safetensors or published file."
    )
    backbone_weights: str | None = start_option(
        None, "Start the backbone from a file, such as torchvision's or the CutMix one, or from a run folder."
    )
    pretrained: bool = start_option(
        False,
        "Start the backbone from the weights that timm or torchvision publishes under its name; images are then made "
        "as these weights know them, unless typed.",
    )
    from_scratch: bool = start_option(False, "Start at random, whatever the recipe starts from.")
    reset_head: bool = start_option(False, "Fresh weights where shapes depend on the number of classes.")
    eval_splits: tuple[str, ...] = run_option(
        ("val",), "Splits to evaluate, comma-separated; the first decides the best.", often=True
    )
    eval_every: int = run_option(1, "Epochs between evaluations.", ge=1)
    cache: Path | None = run_option(
        None,
        "Keep the evaluated images here as bytes, and read these while files and pipeline are the same.",
        metavar="DIR",
    )
    bias_every: int | None = run_option(
        None,
        "Measure the attention bias of a fixed part of the first split at every Nth evaluation.",
        ge=1,
        metavar="N",
    )
    save_steps: int | None = run_option(None, "Also save every so many steps.", ge=1)
    keep: int = run_option(2, "Checkpoints kept beside the best.", ge=1)
    log_every: int = run_option(50, "Steps between lines of metrics.jsonl.", ge=1)
    log_with: tuple[str, ...] = run_option((), "Beside metrics.jsonl: csv (metrics.csv), tensorboard, wandb.")
    compile: bool = run_option(False, "torch.compile the model.")
    channels_last: bool | None = run_option(None, "NHWC memory format.", shown="of convolutions on a GPU")
    tf32: bool = run_option(True, "On a GPU, products of float32 in TF32 in training steps; evaluations are exact.")
    shutdown_timeout: int = run_option(
        120, "Seconds that processes have to finish their step and save, once the run is asked to stop.", ge=1
    )
    measure: bool = run_option(
        False, "With --dry-run: take some steps, and say their memory and how many images at once fit."
    )
    grad_checkpointing: bool = run_option(
        False, "Less memory, about a third more time: transformers compute activations twice."
    )
    deterministic: bool = run_option(False, "Deterministic GPU kernels where there are some.")

    recipe: SerializeAsAny[Recipe]
    """After the ways to start: its `init` says which of them was taken."""

    @field_validator("recipe", mode="before")
    @classmethod
    def _of_the_method(cls, value: object, info: ValidationInfo) -> Recipe:
        """Out of JSON, a recipe is one of the request's method. What was typed goes before its `init`."""
        from attnbias.methods.engine.published import shown as public

        recipe_type = get_description(info.data["method"]).recipe_type
        recipe = value if isinstance(value, Recipe) else recipe_type.model_validate_json(json.dumps(value))
        if info.data.get("from_scratch"):
            return override(recipe, recipe.at_random)
        if info.data.get("load_from"):
            return override(recipe, {"init": FRESH})
        typed = info.data.get("backbone_weights")
        return override(recipe, {"init": public(typed)}) if typed else recipe

    @model_validator(mode="after")
    def _contradicts_nothing(self) -> Self:
        if self.recipe.ema_decay is None and self.recipe.ema_epoch:
            raise UsageError(f"--ema-epoch {self.recipe.ema_epoch} changes nothing without --ema-decay")
        if self.resume is not None and self.overwrite:
            raise UsageError("--resume continues a run and --overwrite deletes it; leave one of them out")
        first, *others = self.starts or [""]
        if self.from_scratch and others:
            raise UsageError(f"--from-scratch starts at random, and {first} does not: give one of them")
        if others:
            raise UsageError(f"{first} and {others[0]} are two ways to start: give one of them")
        if first and self.resume not in (None, "auto"):
            raise UsageError(f"{first} changes nothing with --resume {self.resume}, whose weights go on")
        return self

    def companions(self) -> Mapping[str, tuple[bool, str]]:
        return {
            "reset_head": (self.load_from is not None, "without --load-from"),
            "eval_every": (self.recipe.eval_steps is None, "with --eval-steps"),
        }

    def refuse(self) -> None:
        super().refuse()
        from attnbias.methods.engine.published import check_source
        from attnbias.methods.engine.run_folder import PROGRESS, check_resumable

        _check_network(get_description(self.method), getattr(self.recipe, "backbone", None))
        for source in (self.load_from, self.backbone_weights):
            if source is not None and self.resume is None:  # a run that goes on does not need them again
                check_source(source)
        if self.resume not in (None, "auto"):
            check_resumable(Path(str(self.resume)), PROGRESS)
        if ready(self.recipe.dataset, self.data_root):  # a dry run is of any known set
            self.check_data()

    def check_data(self) -> None:
        """Look whether the dataset is prepared and has the splits of this run.

        Raises:
            DataError: it is not, or has not.
        """
        check_splits(self.recipe.dataset, ("train", *self.eval_splits), self.data_root)

    @property
    def starts(self) -> list[str]:
        """The flags that say what the run starts from."""
        flags = ("--load-from", "--pretrained", "--backbone-weights", "--from-scratch")
        asked = (self.load_from, self.pretrained, self.backbone_weights, self.from_scratch)
        return [flag for flag, value in zip(flags, asked, strict=True) if value]

    @property
    def init(self) -> str | None:
        """What the backbone starts from: what was typed, which the recipe keeps without its secrets, or the recipe's
        own; None = fresh weights."""
        return self.backbone_weights or (None if self.recipe.init == FRESH else self.recipe.init)


class CompareRequest(Datasets, Overwriting):
    """Hold runs side by side."""

    runs: list[Path] = option(..., "Run folders; the first is the reference.", argument=True, metavar="RUN...")
    map: str = option("own", "Whose attention bias: own, gradcam, or another map's name.")
    measure: bool = option(False, "Load the models: parameters, MACs, time per image on this machine.")
    out: Path | None = option(None, "Folder for comparison.md, .csv and .json, and for page and plots.")
    page: bool = option(False, "Load the models: the same images under each, worst cases first, as HTML.")
    split: str | None = option(None, "Split of the page.", shown="the first one with attention bias")
    limit: int | None = option(None, "Images on the page.", ge=1, shown=str(SPLIT_LIMIT))
    plots: bool = option(False, "Learning curves, and accuracy against attention (needs matplotlib).")
    report: Path | None = option(None, "Folder for report.html: all of it on one page, with images.", metavar="DIR")

    @model_validator(mode="after")
    def _says_what_and_where(self) -> Self:
        if not self.runs:
            raise UsageError("no run was given; give run folders, the first of which is the reference")
        check_different(self.runs)
        if (self.page or self.plots) and self.out is None:
            raise UsageError("--page and --plots write files; say where with --out DIR")
        if self.report is not None and self.report == self.out:
            raise UsageError(f"--report and --out both name {self.out}; give each a folder of its own")
        return self

    def companions(self) -> Mapping[str, tuple[bool, str]]:
        return {
            **dict.fromkeys(("split", "limit"), (self.page, "without --page")),
            "data_root": (bool(self.page or self.measure or self.report), "without --page, --measure or --report"),
        }


class DoctorRequest(Datasets):
    """Look at the machine."""

    network: bool = option(False, "Also ask whether the hub of weights answers.")
    as_json: bool = option(False, "Print the findings as JSON.", flags="--json")


DEMO, ROLES = "Demo sets", "Which split does what"
demo_option, role_option = partial(recipe_option, panel=DEMO), partial(recipe_option, panel=ROLES)


class PrepareRequest(Datasets):
    """Check a dataset and write its index files."""

    name: str = option(
        ...,
        "Dataset (see attnbias list datasets), or a folder, .csv or COCO .json of your own.",
        argument=True,
        complete="datasets",
    )
    source: Path | None = option(None, "Folder that holds the dataset's official files.")
    called: str | None = option(
        None, "Sets of your own: what the set is called.", flags="--name", shown="as its folder or file"
    )
    verify: bool = option(False, "Decode every image and name the broken ones.")
    overwrite: bool = option(False, "Replace what was prepared from another source or settings.")
    dry_run: bool = option(False, "Read and check; write nothing.")
    download: bool = option(False, "Fetch the official archives, or go on fetching them.")
    offline: bool = option(False, "Verify every byte of the archives; fetch nothing.")
    in_place: bool = option(False, "Read images out of the archives where they lie; they must not be compressed.")
    splits: tuple[str, ...] = option((), "Only these splits, separated by commas.")
    workers: int | None = option(None, "Processes that make or decode images.", ge=1)
    min_answers: int | None = option(
        None,
        "vqav2: questions whose majority answer an answer must be to become a class.",
        ge=1,
        shown="9; fewer for small sets",
    )
    level: Literal["kingdom", "phylum", "class", "order", "supercategory", "family", "genus", "name"] | None = option(
        None, "inat2018, inat2019: classes are the groups of this level of categories.json.", shown="species, by number"
    )
    masks: Literal["category", "supercategory"] | None = option(
        None, "Make a set in COCO layout one for segmentation: its masks, named by ..."
    )
    contexts: Literal["below", "above"] | None = option(
        None, "Folders of classes: those of contexts stand below them (MetaShift) or above (NICO++) and are the groups."
    )
    orientation: Literal["upright", "stored"] | None = option(
        None,
        "Sets of your own: read images as their EXIF orientation says, or as their pixels are stored.",
        shown="upright",
    )
    train_split: str | None = role_option(None, "The split that trains, where its name does not tell.")
    val_split: str | None = role_option(None, "The split that evaluates, where its name does not tell.")
    val_fraction: float | None = role_option(
        None, "Hold out this share of the training files to evaluate on: by chance (--seed), of each label alike."
    )
    preset: Literal["easy", "medium", "hard", "even", "clear", "faint", "faint-even"] | None = demo_option(
        None,
        "How strong the bias is; even and faint-even = none. clear, then faint: for models that are trained twice.",
        shown="medium",
    )
    size: int | None = demo_option(None, "Pixels a side.", ge=32, shown="64")
    seed: int | None = demo_option(None, "Decides every scene, or what --val-fraction takes.", ge=0, shown="0")
    train: int | None = demo_option(None, "Training images.", ge=1, shown="3000")
    eval: int | None = demo_option(None, "Images of each other split.", ge=1, shown="400")
