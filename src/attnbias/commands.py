"""Each command of the command line as one function: the same options, the same engine, values in the place of tables.

What a function does not name is any other option of its command, `-` as `_` (`attnbias val csra --help` lists them),
and in `train` and `load` any field of the method's recipe. A name that there is not is refused with the nearest. Torch
is imported by those that compute.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Container, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, overload

from attnbias.data.reading import Json, parse_json
from attnbias.errors import AttnbiasError
from attnbias.methods.engine import listing
from attnbias.methods.engine.errors import RunError, Stopped, UsageError, did_you_mean
from attnbias.methods.engine.listing import DatasetRow, MethodRow, RecipeRow, WeightsRow
from attnbias.methods.engine.output_files import check_location
from attnbias.methods.engine.registry import get_description, method_and_fields
from attnbias.methods.engine.requests import (
    AuditRequest,
    CompareRequest,
    ConvertRequest,
    ExploreRequest,
    ExportRequest,
    InspectRequest,
    PrepareRequest,
    PriorsRequest,
    Processes,
    PushRequest,
    Request,
    TrainRequest,
    ValRequest,
    VisualizeRequest,
    options_of,
    split_options,
)
from attnbias.methods.engine.resolve import resolve_run
from attnbias.methods.engine.screen import captured
from attnbias.results import Comparison, Evaluation, Gallery, Listing, Page, Report, Run

if TYPE_CHECKING:
    from attnbias.data.prepare import Report as Prepared
    from attnbias.methods.engine.audit.result import Audit
    from attnbias.methods.engine.doctor import Finding
    from attnbias.methods.engine.explore.explore import Exploration
    from attnbias.methods.engine.export import Graph
    from attnbias.methods.engine.given_images import Images
    from attnbias.methods.engine.inspection import Inspection
    from attnbias.methods.engine.prior_files import Priors
    from attnbias.methods.engine.publish import Pushed
    from attnbias.methods.engine.training.dry_run import DryRun
    from attnbias.model import Classes, Model

Folder = str | os.PathLike[str]
Source = str | os.PathLike[str]
"""What `load` takes: a run folder, a file, a published name, a URL."""
Models = Union["Model", Source, "list[Model | Source]", "tuple[Model | Source, ...]"]
"""One model or several: what `load` gives, or what it takes."""
OF_LOADING = ("method", "recipe", "weights", "trust_checkpoint")
"""Arguments of `load` that commands have as options."""


# Training -------------------------------------------------------------------------------------------------------------


@overload
def train(
    method: str,
    dataset: str | None = ...,
    *,
    recipe: str | None = ...,
    out: Folder | None = ...,
    dry_run: Literal[False] = ...,
    **options: object,
) -> Run: ...
@overload
def train(
    method: str,
    dataset: str | None = ...,
    *,
    recipe: str | None = ...,
    out: Folder | None = ...,
    dry_run: Literal[True],
    **options: object,
) -> DryRun: ...
def train(
    method: str,
    dataset: str | None = None,
    *,
    recipe: str | None = None,
    out: Folder | None = None,
    dry_run: bool = False,
    **options: object,
) -> Run | DryRun:
    """Train a method by its paper's recipe, or yours: `attnbias train METHOD`.

    Args:
        method: of `list_methods()`; `task=...` picks one of a paper's tasks.
        dataset: its paper's recipe for this dataset; None = the method's first recipe.
        recipe: a named recipe, or a YAML file.
        out: the run's folder; None = runs/METHOD/RECIPE.
        dry_run: compute counts, batches and learning rates, and train nothing.
        options: fields of the recipe (`lam=0.5`, `epochs=12`), and options of the command (`gpus=4`, `resume="auto"`,
            `overwrite=True`). With several GPUs or `processes` they are started as by the command; in a script (a
            notebook needs none) put the call below `if __name__ == "__main__":`, as for any process that Python spawns.

    Returns:
        The run, which `load` and `compare` take; of a dry run, what it would be.

    Raises:
        UsageError: something asked for cannot be. DataError, WeightsError: data or weights are missing or damaged.
        RunError: the loss is not finite, or the disk is full. Stopped: a signal ended it, its state is saved, and the
            same call with `resume="auto"` goes on.
    """
    name, options = method_and_fields(method, options)
    description = get_description(name)
    asked, fields = split_options(f"train('{method}')", TrainRequest, description, options)
    if dataset is not None:
        fields["dataset"] = dataset
    if out is not None:
        asked["out"] = Path(out)
    from attnbias.methods.engine.launch import place

    run = resolve_run(description, recipe, fields, asked)
    run = replace(run, request=place(run.request))
    request = run.request
    check_location(request.out)
    if dry_run:
        from attnbias.methods.engine.training.dry_run import dry_run as compute

        found = compute(request)
        run.say()
        return found
    _do(partial(_train, begin=partial(run.say, whole=False)), request)
    return _finished(request.out, name)


def _train(job: str, begin: Callable[[], None]) -> None:
    from attnbias.methods.engine.training.train import train as run

    run(TrainRequest.from_json(job), begin)


def _finished(out: Path, method: str) -> Run:
    from attnbias.methods.engine.metrics_log import MetricsLog
    from attnbias.methods.engine.run_folder import RunFolder

    newest = RunFolder(out).newest()
    if newest is None:
        raise RunError(f"{out} holds no checkpoint")
    progress = RunFolder.read_progress(newest)
    log = tuple(MetricsLog(out).records())
    return Run(out, method, progress.step, progress.best, progress.best_step, progress.stopped_early, log)


def _do(worker: Callable[[str], None], request: Processes) -> None:
    """Do a request's work in this process, or in several; what went wrong in one of them is raised here."""
    from attnbias.methods.engine.launch import in_processes, runs_here

    if runs_here(request):
        worker(request.to_json())
        return
    ended = in_processes(worker, request)
    if ended.code > 128:
        raise Stopped(ended.code - 128)
    if ended.code:
        kinds = {kind.__name__: kind for kind in AttnbiasError.__subclasses__()}
        raise kinds.get(ended.kind, RunError)(ended.words.strip().removeprefix("error: "))


# Looking and measuring ------------------------------------------------------------------------------------------------


def evaluate(
    model: Models,
    dataset: str | None = None,
    *,
    split: str | Sequence[str] | None = None,
    bias: bool = False,
    **options: Any,
) -> Report:
    """Score models on splits of a dataset, and measure where they look: `attnbias val`, with the same figures.

    Args:
        model: what `load` gives, or what it takes; several are held side by side.
        dataset: another dataset than the model's own, with the same classes.
        split: one or several; None = val.
        bias: hold the attention against the objects' masks or boxes.
        options: of the command (`reliance=True`, `attack=["pgd"]`, `map="gradcam"`, `store=True`); of a model that is
            not loaded yet, also fields of its recipe. Files that it writes are those of the command (`json_file`,
            `csv_file`, `bias_out`).

    Returns:
        One `Evaluation` per model and split: `report.metrics["mAP"]`, `report.bias["energy"]`, `report.to_dataframe()`.

    Raises:
        UsageError: a model and the dataset do not fit together, or something asked for cannot be measured.
        DataError, WeightsError: data or weights are missing or damaged.
    """
    from attnbias.methods.engine.launch import place
    from attnbias.model import Model, method_of

    given = _several(model)
    in_memory = [each for each in given if isinstance(each, Model)]
    sources = [os.fspath(each) for each in given]
    if in_memory:
        name = in_memory[0].method
        _refuse_loading(options, name, ValRequest)
    else:
        method = options.pop("method", None)
        name, options = method_of(sources[0], method, options, trust=options.get("trust_checkpoint", False))
    asked, fields = split_options("evaluate", ValRequest, get_description(name), options, own=("load_from",))
    if dataset is not None and not in_memory:
        fields["dataset"] = dataset
    known = {"method": name, "load_from": sources, "bias": bias, "fields": fields}
    if split is not None:
        known["split"] = split if isinstance(split, str) else tuple(split)
    if not in_memory:
        request = place(ValRequest.of({**asked, **known}))
        return _report(_validated(request), request)
    if len(in_memory) < len(given):
        raise UsageError("some of these models are loaded and others are not; load all of them, or none")
    return _evaluate_loaded(in_memory, dataset, asked, known)


def _evaluate_loaded(
    models: Sequence[Model], dataset: str | None, asked: Mapping[str, object], known: Mapping[str, object]
) -> Report:
    """Measure loaded models where they are, in this process; `known` goes before what is `asked`."""
    from attnbias.methods.engine.launch import place
    from attnbias.methods.engine.recipe import override
    from attnbias.methods.engine.validate import validate

    first = models[0]
    if "device" in asked or asked.get("gpus") or asked.get("processes", 1) != 1:
        raise UsageError(
            f"a loaded model is measured where it is, on {first.device}, in this process; for others give "
            "evaluate what attnbias.load takes"
        )
    loaded = [each.loaded for each in models]
    if dataset is not None:
        loaded = [replace(each, recipe=override(each.recipe, {"dataset": dataset})) for each in loaded]
    machine = {"device": str(first.device), "data_root": first.data_root, "in_memory": True}
    request = place(ValRequest.of({**machine, **asked, **known}))
    return _report(validate(request, loaded), request)


def audit(
    model: Model | Source,
    data: Folder,
    *,
    against: Model | Source | None = None,
    out: Folder | None = None,
    **options: Any,
) -> Audit:
    """Say where a classifier looks, what it relies on, and whether its map can be trusted: `attnbias audit`.

    Args:
        model: what `load` gives or takes.
        data: a prepared dataset, or a folder, table or COCO file of one's own, which is prepared first.
        against: another model, before this one: differences on the same images.
        out: a folder for report.html, audit.json, classes.csv, samples.csv and worst/; None = nothing is written.
        options: of the command (`split="test"`, `limit=200`, `fail_if=["position_biased>0.2"]`); of a model that is not
            loaded yet, also fields of its recipe.

    Returns:
        What audit.json holds, with the rows of samples.csv as `samples`; `exit_code` is the command's.

    Raises:
        UsageError: the model and the dataset do not fit together, or something asked for cannot be had.
        DataError, WeightsError: data or weights are missing or damaged.
    """
    from attnbias.methods.engine.audit.audit import audit as look
    from attnbias.model import Model, method_of

    given = [model, *([] if against is None else [against])]
    in_memory = [each for each in given if isinstance(each, Model)]
    own = ("load_from", "data", "against", "out")
    source, other = os.fspath(model), None if against is None else os.fspath(against)
    known: dict[str, object] = {"load_from": source, "data": os.fspath(data), "against": other}
    if not in_memory:
        method = options.pop("method", None)
        name, options = method_of(source, method, options, trust=options.get("trust_checkpoint", False))
        asked, fields = split_options("audit", AuditRequest, get_description(name), options, own=own)
        known |= {"method": None if method is None else name, "fields": fields}
    elif len(in_memory) < len(given):
        raise UsageError("one of these models is loaded and the other is not; load both, or none")
    else:
        _refuse_loading(options, in_memory[0].method, AuditRequest)
        asked = _options("audit", AuditRequest, options, own=(*own, *OF_LOADING, "layer", "device", "gpus"))
        known["device"] = str(in_memory[0].device)
        asked = {"data_root": in_memory[0].data_root, **asked}
    known |= {} if out is None else {"out": out}
    request = AuditRequest.of({**asked, **known})
    return look(request, [each.loaded for each in in_memory], write=out is not None)


def _loaded(model: Model | Source, device: str | None = None) -> Model:
    """A model that was loaded, or is now: on a `device`, None = where `load` puts it."""
    from attnbias.model import Model, load

    return model if isinstance(model, Model) else load(model, device=device)


def _several(models: Models) -> Sequence[Model | Source]:
    found = models if isinstance(models, list | tuple) else [models]
    if not found:
        raise UsageError("no model was given; expected what attnbias.load gives or takes, or a list of it")
    return found


def _refuse_loading(options: Mapping[str, object], method: str, kind: type[Request]) -> None:
    """Refuse what says how a model is loaded beside one that is: fields of its recipe, which weights of a file."""
    fields = get_description(method).recipe_type.model_fields
    for name in options:
        if name in OF_LOADING or (name in fields and name not in kind.model_fields):
            raise UsageError(f"'{name}' says how a model is loaded; give it to attnbias.load(..., {name}=...)")


def _validate(job: str) -> None:
    from attnbias.methods.engine.validate import validate

    validate(ValRequest.from_json(job))


def _validated(request: ValRequest) -> list[Json]:
    """The results, those of several processes by way of the file that the first of them writes."""
    from attnbias.methods.engine.launch import runs_here
    from attnbias.methods.engine.validate import validate

    if runs_here(request):
        return validate(request)
    with tempfile.TemporaryDirectory(prefix="attnbias-") as folder:
        file = request.json_file or str(Path(folder) / "results.json")
        _do(_validate, request.model_copy(update={"json_file": file}))
        found: list[Json] = parse_json(Path(file).read_text(encoding="utf-8"))
        return found


def _report(results: list[Json], request: ValRequest) -> Report:
    from attnbias.cli.evaluation_tables import show_results
    from attnbias.methods.engine.validate import figures

    with captured() as page:
        show_results(results, request.per_class)
    return Report(page, tuple(Evaluation(result, figures(result)) for result in results))


def gallery(
    models: Models,
    images: Images | None = None,
    of: Classes | None = None,
    *,
    out: Folder | None = None,
    **options: object,
) -> Gallery:
    """Draw where models look, the same images under each: `attnbias visualize`.

    Args:
        models: what `load` gives or takes; models of one dataset.
        images: as in `Model.predict`; None = a split of the first model's dataset (`split="val"`, `limit=48`).
        of: classes to draw, by name or number, None = true and predicted ones; of models that are asked in words,
            questions.
        out: a folder for overlays, sheets and the page; None = the page alone, in memory.
        options: of the command (`maps=["gradcam"]`, `top=8`, `contour=True`, `normalisation="max"`).

    Raises:
        UsageError: models or images do not fit together. DataError: an image cannot be read.
    """
    from attnbias.methods.engine.display.inference import ImageSample
    from attnbias.methods.engine.display.visualize import visualize
    from attnbias.methods.engine.given_images import given_images
    from attnbias.model import listed

    loaded = [_loaded(each) for each in _several(models)]
    first = loaded[0]
    _refuse_loading(options, first.method, VisualizeRequest)
    own = ("load_from", "paths", "classes", "questions", "device")
    asked = _options("gallery", VisualizeRequest, options, own)
    given = given_images(images) if images is not None else []
    on_disk = [image.source for image in given if isinstance(image.source, Path)]
    in_memory = [ImageSample(image.name, image.read()) for image in given] if len(on_disk) < len(given) else []
    words = [] if of is None else list(map(str, listed(of)))
    known = {
        "method": first.method,
        "load_from": [each.load_from for each in loaded],
        "paths": [] if in_memory else on_disk,
        "device": str(first.device),
        "in_memory": True,
        "questions" if first.loaded.method.reads_texts else "classes": words,
    }
    with tempfile.TemporaryDirectory(prefix="attnbias-") as folder:
        where = Path(folder) / "gallery" if out is None else Path(out)
        request = VisualizeRequest.of({"data_root": first.data_root, **asked, **known, "out": where})
        done = visualize(request, [each.loaded for each in loaded], in_memory)
        page = done.page.read_text(encoding="utf-8")
    return Gallery(page, done.images, done.overlays, tuple(done.skipped), None if out is None else Path(out))


def explore(
    models: Models,
    images: Images | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    **options: object,
) -> Exploration:
    """Serve a page on which models are tried by hand: `attnbias explore`. Returns at once, and serves meanwhile.

        with attnbias.explore(["runs/csra/demo", "runs/plain/demo"], "photo.jpg") as page:
            page.wait()

    Args:
        models: what `load` gives or takes; several stand side by side.
        images: as in `Model.predict`: those that the page begins with; others can be dropped on it.
        host: the address to serve at; any but this machine's own lets others in.
        port: 0 takes one that is free; `page.url` says which.
        options: of the command (`on_bad_image="skip"`).

    Returns:
        The page, until its `close`, the end of its `with` block, or of the process.

    Raises:
        UsageError: nothing can be served at the address. DataError: an image cannot be read.
    """
    from attnbias.methods.engine.explore.explore import explore as serve
    from attnbias.methods.engine.given_images import given_images

    loaded = [_loaded(each) for each in _several(models)]
    first, *others = loaded
    _refuse_loading(options, first.method, ExploreRequest)
    own = ("load_from", "paths", "beside", "host", "port", *OF_LOADING, "weights_file", "device", "gpus")
    asked = _options("explore", ExploreRequest, options, own)
    known = {
        "load_from": first.load_from,
        "beside": [each.load_from for each in others],
        "host": host,
        "port": port,
        "device": str(first.device),
    }
    request = ExploreRequest.of({"data_root": first.data_root, **asked, **known})
    return serve(request, [each.loaded for each in loaded], given_images(images) if images is not None else [])


def compare(
    runs: Folder | Sequence[Folder], *, map: str = "own", out: Folder | None = None, **options: object
) -> Comparison:
    """Hold runs side by side, from what their folders hold: `attnbias compare`.

    Learning curves, and what `evaluate(..., store=True)` kept, with differences to the first run and their 95 %
    intervals over images.

    Args:
        runs: one or several run folders, what `train` gave, or models that were loaded from them; the first is the
            reference.
        map: whose attention bias: each model's own map, gradcam, or a map's name.
        out: a folder for comparison.md, .csv and .json, and what is asked for beside them.
        options: of the command (`measure=True`, `page=True`, `plots=True`, `report=FOLDER`).

    Raises:
        UsageError: the runs cannot be compared. WeightsError: a folder is not a run, or is damaged.
    """
    from attnbias.cli.compare import show
    from attnbias.methods.engine.compare import compare as hold

    asked = _options("compare", CompareRequest, options)
    given = [runs] if isinstance(runs, str | os.PathLike) else runs
    found = hold(CompareRequest.of({**asked, "runs": [Path(run) for run in given], "map": map, "out": out}))
    with captured() as page:
        show(found)
    names = tuple(run.name for run in found.runs)
    return Comparison(page, found, names, tuple(found.missing), tuple(found.written))


def priors(model: Model | Source, out: Folder, **options: object) -> Priors:
    """Write vectors that a steered model (AbSViT) can look for, and return them: `attnbias priors`.

    Args:
        model: what `load` gives or takes.
        out: FILE.npz, which every `prior=` and `--prior` takes.
        options: of the command (`split="train"`, `of="images"`, `limit=800`; `texts=["a dog"]` of a model that is asked
            in words).

    Returns:
        Vectors by name: `model.attention(image, prior=found["cat"])`.

    Raises:
        UsageError: the model cannot be steered. DataError: the split shows no objects, or an image cannot be read.
    """
    from attnbias.methods.engine.make_priors import make_priors

    chosen = _loaded(model)
    _refuse_loading(options, chosen.method, PriorsRequest)
    asked = _options("priors", PriorsRequest, options, own=("load_from", "device"))
    known = {"load_from": chosen.load_from, "in_memory": True, "out": out, "device": str(chosen.device)}
    return make_priors(PriorsRequest.of({"data_root": chosen.data_root, **asked, **known}), chosen.loaded).priors


# Data, weights, graphs ------------------------------------------------------------------------------------------------


def prepare_data(name: Folder, source: Folder | None = None, **options: object) -> Prepared:
    """Check a dataset, write its index, and print what is in it: `attnbias prepare-data`.

    Args:
        name: of `list_datasets()`, or a folder, table or COCO file of one's own.
        source: the folder that holds a known dataset's official files.
        options: of the command (`verify=True`, `val_fraction=0.2`, `called="pets"` for `--name`).

    Returns:
        The set as it now stands: its folder, indexes and warnings.

    Raises:
        UsageError: there is no such dataset, or it does not take an option.
        DataError: annotations or images are missing or damaged.
    """
    from attnbias.cli.prepare_data import fetch_progress, show
    from attnbias.methods.engine.prepare_data import prepare_data as prepare

    asked = _options("prepare_data", PrepareRequest, options)
    request = PrepareRequest.of({**asked, "name": os.fspath(name), "source": source})
    with fetch_progress() as progress:
        report = prepare(request, progress)
    show(report, request.dry_run)
    return report


def export(model: Model | Source, out: Folder | None = None, **options: object) -> Graph:
    """Write a model as one graph, scores and attention maps together: `attnbias export`.

    Args:
        model: what `load` gives or takes.
        out: FILE.onnx (needs attnbias[export]) or FILE.pt2 of torch.export; None = METHOD.onnx.
        options: of the command (`check=True`, `paths=["photos"]`, `map="score"`, `top_k=3`).

    Raises:
        UsageError: the model cannot be exported so. RunError: the graph does not agree with the model.
    """
    from attnbias.methods.engine.export import export as write

    chosen = _loaded(model, "cpu")
    on_cpu = replace(chosen.loaded, model=deepcopy(chosen.module).cpu())
    _refuse_loading(options, chosen.method, ExportRequest)
    asked = _options("export", ExportRequest, options, own=("load_from",))
    if out is not None:
        asked = {"format": "torch-export" if Path(out).suffix == ".pt2" else "onnx", **asked, "out": out}
    known = {"method": chosen.method, "load_from": chosen.load_from, "in_memory": True}
    return write(ExportRequest.of({"data_root": chosen.data_root, **asked, **known}), on_cpu)


def fetch_weights(name: str) -> Path:
    """Bring published weights to the cache, verify them, and return their path: `attnbias weights fetch`.

    Raises:
        UsageError: there are none of that name. WeightsError, DataError: they cannot be had.
    """
    from attnbias.cli.prepare_data import fetch_progress
    from attnbias.methods.engine.published import fetch_published, published_weights

    found = published_weights(name)
    with fetch_progress() as progress:
        return fetch_published(found, progress)


def inspect_weights(
    source: Source, *, method: str | None = None, recipe: str | None = None, trust_checkpoint: bool = False
) -> Inspection:
    """What a weight file holds: its layout, whose it is, how it fits the model: `attnbias weights inspect`.

    Arguments are those of `load`.

    Raises:
        WeightsError: it is missing, damaged or refused.
    """
    from attnbias.methods.engine.inspection import inspect_weights as inspect

    known = {"load_from": os.fspath(source), "method": method, "recipe": recipe}
    return inspect(InspectRequest.of({**known, "trust_checkpoint": trust_checkpoint}))


def convert_weights(source: Source, to: Folder, *, method: str | None = None, **options: object) -> Path:
    """Write weights as a .safetensors of ours, which loads with no flags; return its path: `attnbias weights convert`.

    Args:
        source: what `load` takes.
        to: FILE.safetensors.
        method: whose weights they are, where they do not say.
        options: of the command (`to_plain=True`, `weights="raw"`, `overwrite=True`), and fields of the recipe.

    Raises:
        UsageError: a name cannot be, or a field contradicts the weights. WeightsError: they are missing or damaged.
    """
    from attnbias.methods.engine.inspection import convert_weights as convert
    from attnbias.model import method_of

    file, target = os.fspath(source), Path(to)
    name, options = method_of(file, method, options, trust=options.get("trust_checkpoint", False))
    known = get_description(name)
    asked, fields = split_options("convert_weights", ConvertRequest, known, options, own=("load_from",))
    convert(ConvertRequest.of({**asked, "load_from": file, "to": target, "method": name, "fields": fields}))
    return target


def push_weights(run: Source, target: str, **options: object) -> Pushed:
    """Write a run's weights to Hugging Face's hub, with a model card: `attnbias weights push`.

    Args:
        run: a run folder, one of its checkpoints, or a .safetensors of ours.
        target: hf://ORGANISATION/NAME.
        options: of the command (`private=True`, `weights="raw"`, `overwrite=True`).

    Raises:
        UsageError: no name of a repository, or one that is there. WeightsError: the weights cannot be read.
        RunError: the hub cannot be reached, or refuses.
    """
    from attnbias.methods.engine.publish import push

    asked = _options("push_weights", PushRequest, options)
    return push(PushRequest.of({**asked, "run": os.fspath(run), "target": target}))


# What there is --------------------------------------------------------------------------------------------------------


def list_methods() -> Listing[MethodRow]:
    """The methods and their papers: `attnbias list methods`."""
    return Listing(listing.list_methods())


def list_recipes(method: str | None = None) -> Listing[RecipeRow]:
    """Named recipes with what their papers report, of one method or of all: `attnbias list recipes`.

    Raises:
        UsageError: there is no such method.
    """
    return Listing(listing.list_recipes(method))


def list_datasets(data_root: Folder | None = None) -> Listing[DatasetRow]:
    """Datasets, how each is obtained, and which are ready on this machine: `attnbias list datasets`."""
    return Listing(listing.list_datasets(None if data_root is None else Path(data_root)))


def list_weights(method: str | None = None) -> Listing[WeightsRow]:
    """Published weights that `load` takes by name, of one method or of all: `attnbias list weights`.

    Raises:
        UsageError: there is no such method.
    """
    return Listing(listing.list_weights(method))


def doctor(data_root: Folder | None = None, *, network: bool = False) -> Listing[Finding]:
    """Whether this machine is ready: packages, devices, memory and folders, with what mends them: `attnbias doctor`.

    Args:
        data_root: where prepared datasets stand; None = $ATTNBIAS_DATA or ./datasets.
        network: also ask whether the hub of weights answers.
    """
    from attnbias.methods.engine.doctor import doctor as look

    return Listing(look(None if data_root is None else Path(data_root), network))


def show_recipe(recipe: str) -> Page:
    """A named recipe with everything that is known of it, to print or to look at: `attnbias show`.

    Args:
        recipe: METHOD/RECIPE, or the name alone where one method has it.

    Raises:
        UsageError: there is none, or several methods have one of this name.
    """
    from attnbias.cli.show import show

    with captured() as page:
        show([recipe])
    return Page(page)


def cite(method: str) -> str:
    """BibTeX of a method's paper, of the program that its numbers come from, and of attnbias: `attnbias cite`.

    Raises:
        UsageError: there is no such method.
    """
    return listing.cite(method)


def _options(
    command: str, kind: type[Request], given: Mapping[str, object], own: Container[str] = ()
) -> dict[str, object]:
    """Options of a command that has no recipe's fields, but those that the function fills by arguments of its `own`.

    Raises:
        UsageError: it has no such option; the nearest is offered.
    """
    known = options_of(kind, own)
    for name in given:
        if name not in known:
            near = did_you_mean(name, known)
            raise UsageError(f"{command} has no option '{name}'{near}; see help(attnbias.{command})")
    return dict(given)
