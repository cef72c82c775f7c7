"""Weights of a run, with everything that they need, as a repository of Hugging Face's hub."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from attnbias import __version__
from attnbias.data.names import own_name
from attnbias.data.reading import Json
from attnbias.methods.engine.errors import RunError, UsageError
from attnbias.methods.engine.load import (
    Described,
    Loaded,
    describe,
    preprocessing,
    weights_metadata,
    which_weights,
    with_model,
)
from attnbias.methods.engine.metrics_log import MetricsLog
from attnbias.methods.engine.published import ADDRESS, HUB, hub_repository, on_disk
from attnbias.methods.engine.recipe import FRESH, OWN, Recipe, override, write_recipe
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.requests import PushRequest
from attnbias.methods.engine.run_folder import PROGRESS, RunFolder
from attnbias.methods.engine.stored import stored_method
from attnbias.methods.engine.stored_evaluations import stored_evaluations
from attnbias.methods.engine.text import visible
from attnbias.methods.engine.types import Metrics
from attnbias.weights.cache import offline
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import write_weights
from attnbias.weights.manifest import PUBLISHED

WEIGHTS, RECIPE, PREPROCESSING, CARD = "model.safetensors", "recipe.yaml", "preprocessing.json", "README.md"

EXISTS = 409
"""The hub's answer to a name that is taken."""


@dataclass(frozen=True)
class Pushed:
    """What was written to the hub."""

    target: str
    """What `--load-from` takes."""
    url: str
    files: tuple[str, ...]
    source: str
    """Where the weights came from, in words for a person."""


def push(request: PushRequest) -> Pushed:
    """Write a run's weights to the hub, with recipe, preprocessing and a model card.

    Raises:
        UsageError: no name of a repository, or one that is there already. WeightsError: the weights cannot be read.
        RunError: the hub cannot be reached, or refuses.
    """
    repository = hub_repository(request.target)
    if offline():
        raise UsageError(f"{request.target} cannot be written --offline; leave that out")
    method = stored_method(Path(request.run))
    if method is None:
        raise WeightsError(
            f"{request.run} is not a run folder or a .safetensors of ours; for a published file first: attnbias "
            f"weights convert {request.run} --to FILE.safetensors"
        )
    described = describe(method, request.run, {}, entry=request.entry)
    loaded = with_model(described, {})
    recipe = without_paths(loaded.recipe)
    described, loaded = replace(described, recipe=recipe), replace(loaded, recipe=recipe)
    with TemporaryDirectory(prefix="attnbias-") as place:
        folder = Path(place)
        metadata = weights_metadata(loaded.method, loaded.recipe, loaded.classes, loaded.task)
        write_weights(folder / WEIGHTS, loaded.model.state_dict(), metadata)
        write_recipe(folder / RECIPE, loaded.recipe, method)
        images = preprocessing(loaded.method, loaded.recipe)
        (folder / PREPROCESSING).write_text(json.dumps(images, indent=1) + "\n")
        weights = which_weights(loaded.source, request.run)
        card = model_card(request.target, loaded, weights, measured(described, weights))
        (folder / CARD).write_text(card, encoding="utf-8")
        url = _upload(repository, folder, request)
    return Pushed(request.target, url, (WEIGHTS, RECIPE, PREPROCESSING, CARD), loaded.source)


def _upload(repository: str, folder: Path, request: PushRequest) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        url = api.create_repo(repository, private=request.private, exist_ok=request.overwrite)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"attnbias {__version__}")
    except Exception as error:  # its HTTP client raises errors of several families
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status == EXISTS:
            raise UsageError(f"{request.target} is there already; --overwrite adds these weights to it") from None
        mend = "; sign in: hf auth login, or $HF_TOKEN" if status in (None, 401, 403) else ""
        raise RunError(f"{request.target} cannot be written: {(str(error).splitlines() or ['?'])[0]}{mend}") from None
    return str(url)


def without_paths(recipe: Recipe) -> Recipe:
    """A recipe as others may see it: folders of this machine by their names alone, starting weights of one's own as
    `own`."""
    texts = [(name, value) for name, value in recipe if isinstance(value, str)]
    public = {name: own_name(Path(value)) for name, value in texts if Path(value).is_absolute() or on_disk(value)}
    public["dataset"] = own_name(Path(recipe.dataset))
    if recipe.init not in (FRESH, OWN, *PUBLISHED) and not ADDRESS.fullmatch(recipe.init):
        public["init"] = OWN
    return override(recipe, public)


def measured(described: Described, weights: str) -> dict[str, Metrics]:
    """What a run's folder says of its `weights`, as `which_weights` has them: DATASET/SPLIT -> measures, of its log and
    of `val --store`; nothing where they are not in a run."""
    folder = described.path.parent
    run = folder.parent.parent
    if not (folder / PROGRESS).is_file() or not MetricsLog(run).path.is_file():
        return {}
    step, kind = RunFolder.read_progress(folder).step, "ema" if described.path.stem == "ema" else "raw"
    found: dict[str, Metrics] = {}
    for line in MetricsLog(run).records():
        if line["step"] == step and line.get("weights") == kind:
            figures = {n: v for n, v in line.items() if n not in ("step", "epoch") and isinstance(v, int | float)}
            found[f"{described.recipe.dataset}/{line['split']}"] = figures
    for stored in stored_evaluations(run):
        if stored.content["weights"] == weights:
            measures = stored.content["measures"].items()
            found[stored.split] = {name: value for name, value in measures if isinstance(value, int | float)}
    return found


def model_card(target: str, loaded: Loaded, weights: str, measures: dict[str, Metrics]) -> str:
    """The README of a repository: what the model is, how it measured, how images are made, how it is loaded. It names
    no path of this machine."""
    method, recipe, description = loaded.method.name, loaded.recipe, get_description(loaded.method.name)
    words = f": {visible(weights)}" if weights else ""
    images: Json = preprocessing(loaded.method, recipe)
    classes = ", ".join(visible(name) for name in loaded.classes[:20]) + (" ..." if len(loaded.classes) > 20 else "")
    return f"""---
library_name: attnbias
pipeline_tag: image-classification
tags:
- attnbias
- {method}
---

# {target.removeprefix(HUB)}

{description.title}, trained on `{visible(recipe.dataset)}` with attnbias {__version__}{words}.
The method is of {description.paper}.

{len(loaded.classes)} classes ({loaded.task}): {classes}

## Measured

{_table(measures)}

## Load it

```
attnbias val {method} --load-from {target}
```

`attnbias predict`, `visualize` and `export` take it in the same way. In Python: `attnbias.load("{target}")`.
The file `{WEIGHTS}` holds recipe, classes and preprocessing too; `{RECIPE}` trains it again:
`attnbias train {method} --recipe {RECIPE}`.

## Images

{images["image_size"]} pixels; mean {images["mean"]}, standard deviation {images["std"]}. All steps are in
`{PREPROCESSING}`.

## Cite

```bibtex
{description.paper.bibtex()}
```
"""


def _table(measures: dict[str, Metrics]) -> str:
    """Splits and their measures in Markdown, in the units of `attnbias val`."""
    if not measures:
        return "Nothing is measured yet: `attnbias val` does."
    names = list(dict.fromkeys(name for figures in measures.values() for name in figures))
    rows = [["split", *names], ["---", *("---:" for _ in names)]]
    for split, figures in measures.items():
        rows.append([visible(split), *(f"{figures[name]:.4g}" if name in figures else "" for name in names)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
