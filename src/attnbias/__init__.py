"""attnbias: five papers on attention bias behind one command line, one engine, the same data and the same measures.

    model = attnbias.load("runs/csra/demo")
    model.predict("photo.jpg").top(3)
    model.attention("photo.jpg", "person").overlay()

Each command is one function: `train`, `evaluate` (val), `audit`, `gallery` (visualize), `explore`, `compare`, `priors`,
`prepare_data`, `export`, `fetch_weights`, `inspect_weights`, `convert_weights`, `push_weights`, `list_*`,
`show_recipe`, `cite`, `doctor`; `Model.predict` is predict. Names are imported when they are first used, and torch with
those that compute.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnbias.commands import audit as audit
    from attnbias.commands import cite as cite
    from attnbias.commands import compare as compare
    from attnbias.commands import convert_weights as convert_weights
    from attnbias.commands import doctor as doctor
    from attnbias.commands import evaluate as evaluate
    from attnbias.commands import explore as explore
    from attnbias.commands import export as export
    from attnbias.commands import fetch_weights as fetch_weights
    from attnbias.commands import gallery as gallery
    from attnbias.commands import inspect_weights as inspect_weights
    from attnbias.commands import list_datasets as list_datasets
    from attnbias.commands import list_methods as list_methods
    from attnbias.commands import list_recipes as list_recipes
    from attnbias.commands import list_weights as list_weights
    from attnbias.commands import prepare_data as prepare_data
    from attnbias.commands import priors as priors
    from attnbias.commands import push_weights as push_weights
    from attnbias.commands import show_recipe as show_recipe
    from attnbias.commands import train as train
    from attnbias.data.errors import DataError as DataError
    from attnbias.errors import AttnbiasError as AttnbiasError
    from attnbias.methods.engine.audit.result import Audit as Audit
    from attnbias.methods.engine.errors import RunError as RunError
    from attnbias.methods.engine.errors import Stopped as Stopped
    from attnbias.methods.engine.errors import UsageError as UsageError
    from attnbias.methods.engine.explore.explore import Exploration as Exploration
    from attnbias.methods.engine.prior_files import Priors as Priors
    from attnbias.model import Model as Model
    from attnbias.model import load as load
    from attnbias.results import AttentionMaps as AttentionMaps
    from attnbias.results import Comparison as Comparison
    from attnbias.results import Evaluation as Evaluation
    from attnbias.results import Gallery as Gallery
    from attnbias.results import Listing as Listing
    from attnbias.results import Page as Page
    from attnbias.results import Prediction as Prediction
    from attnbias.results import Predictions as Predictions
    from attnbias.results import Report as Report
    from attnbias.results import Run as Run
    from attnbias.weights.errors import WeightsError as WeightsError

__version__ = "0.2.0"

_NAMES = {
    "model": ("load", "Model"),
    "commands": (
        *("train", "evaluate", "audit", "gallery", "explore", "compare", "priors", "prepare_data", "export", "cite"),
        "doctor",
        *("fetch_weights", "inspect_weights", "convert_weights", "push_weights"),
        *("list_methods", "list_recipes", "list_datasets", "list_weights", "show_recipe"),
    ),
    "results": (
        *("Prediction", "Predictions", "AttentionMaps", "Evaluation", "Report", "Comparison", "Gallery", "Run"),
        *("Listing", "Page"),
    ),
    "methods.engine.audit.result": ("Audit",),
    "methods.engine.explore.explore": ("Exploration",),
    "errors": ("AttnbiasError",),
    "data.errors": ("DataError",),
    "weights.errors": ("WeightsError",),
    "methods.engine.prior_files": ("Priors",),
    "methods.engine.errors": ("UsageError", "RunError", "Stopped"),
}
"""Module -> the public names that it holds."""
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'attnbias' has no attribute '{name}'", name=name, obj=import_module(__name__))
    return getattr(import_module(f"attnbias.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
