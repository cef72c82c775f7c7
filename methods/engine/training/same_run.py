"""That a run goes on with what it began with, and that all its processes do the same thing.

RUN/data.json holds the fingerprints of the splits; each checkpoint holds their digests, by which it is judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attnbias.data.fingerprint import Fingerprint, class_difference
from attnbias.data.index import Index
from attnbias.data.reading import Json, StoredModel, read_json, reading, shown
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import stored_info
from attnbias.methods.engine.method import AnyMethod
from attnbias.methods.engine.recipe import Recipe, changed, flag_of
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.sampler import Plan
from attnbias.weights.errors import WeightsError

DATA = "data.json"

OF_A_MACHINE = {
    *("out", "data_root", "load_from", "backbone_weights"),
    *("gpus", "cards", "device", "processes", "workers", "threads", "shutdown_timeout"),
}
"""Options that may differ between the machines of a run: where things lie there, and how much work it takes on."""


class _DataFile(StoredModel):
    """The content of data.json."""

    splits: dict[str, Fingerprint]


@dataclass(frozen=True)
class Data:
    """The splits of a run by the names that they were asked for by: `train`, then the evaluated ones."""

    indices: dict[str, Index]
    fingerprints: dict[str, Fingerprint]

    @classmethod
    def of(cls, indices: dict[str, Index]) -> Data:
        """Take the fingerprint of each split."""
        return cls(indices, {name: Fingerprint.of(index) for name, index in indices.items()})

    def digests(self) -> dict[str, str]:
        """What a checkpoint keeps of them."""
        return {name: found.digest for name, found in self.fingerprints.items()}

    def text(self) -> str:
        """The content of data.json."""
        return json.dumps(_DataFile(splits=self.fingerprints).model_dump(), indent=1) + "\n"


def check_goes_on(checkpoint: Path, method: AnyMethod, recipe: Recipe, data: Data, plan: Plan) -> list[str]:
    """Check that a complete checkpoint was trained by this recipe on this data; warnings of what it does not tell.

    A run may go on for longer, or end sooner, than it was begun for, where its steps so far would have been the same.

    Raises:
        UsageError: something differs; it is named.
    """
    info = stored_info(checkpoint / "model.safetensors", method)
    differing = changed(recipe, info.recipe)
    names = [name for name in differing if name not in recipe.at_random]  # what began the run is behind it
    if names and set(names) <= {"epochs", "steps"}:
        _check_same_so_far(checkpoint, method, info.recipe, recipe, plan)
    elif names:
        raise UsageError(
            f"{checkpoint} was trained with another recipe ({', '.join(names)} differ); "
            "resume with the same one, or choose another --out"
        )
    if difference := class_difference(info.classes, data.indices["train"].classes):
        raise UsageError(_other_data(checkpoint, f"classes differ: {difference}"))
    then, now = RunFolder.read_progress(checkpoint).data, data.digests()
    if not then:
        return [
            f"warning: {checkpoint} says nothing of its data but the names of the classes, so that a change of the "
            "records since then cannot be seen: an earlier version of attnbias wrote it"
        ]
    deciding, asked = ((list(one)[1:] or ["train"])[0] for one in (then, now))
    if deciding != asked:
        raise UsageError(
            f"{checkpoint} picks its best weights by split '{deciding}', not '{asked}'; "
            f"resume with --eval-splits {deciding}, or choose another --out"
        )
    for split in now:
        if then.get(split, now[split]) != now[split]:  # one that is evaluated since may be new
            known = _described(checkpoint).get(split)
            differences = ["records or settings differ"]
            if known is not None and known.digest == then[split]:
                differences = data.fingerprints[split].differences(known, data.indices[split])
            raise UsageError(_other_data(checkpoint, f"split '{split}': {'; '.join(differences)}"))
    return []


def _check_same_so_far(checkpoint: Path, method: AnyMethod, begun: Recipe, asked: Recipe, plan: Plan) -> None:
    """Check that a run which is to have another length has done nothing yet that this length would have made another.

    Raises:
        UsageError: its learning rates follow from its length, or it is beyond the end that is asked for.
    """
    done = RunFolder.read_progress(checkpoint).step
    if done > plan.total_steps:
        raise UsageError(f"{checkpoint} is beyond the {plan.total_steps} steps that are asked for; ask for more")
    was, now = (method.schedule(recipe, plan.steps_per_epoch) for recipe in (begun, asked))
    if (other := next((step for step in range(done) if was(step) != now(step)), None)) is not None:
        raise UsageError(
            f"{checkpoint} was begun for another length, which its learning rates follow: from step {other} on they "
            "would have been others; resume with the same --epochs and --steps, or begin another run with these "
            "weights: --load-from RUN --out ANOTHER"
        )


def _other_data(checkpoint: Path, difference: str) -> str:
    return (
        f"{checkpoint} was trained on other data: {difference}; prepare the data as it was, or start anew with "
        "another --out (--load-from begins with these weights)"
    )


def _described(checkpoint: Path) -> Mapping[str, Fingerprint]:
    """What the run of a checkpoint wrote of its data; nothing where that is missing."""
    path = checkpoint.absolute().parent.parent / DATA
    try:
        with reading(path, "the checkpoints of the run are not touched by that", WeightsError):
            return _DataFile.model_validate(read_json(path)).splits
    except FileNotFoundError:
        return {}


def check_processes_agree(control: Control, request: TrainRequest, data: Data) -> None:
    """Check that all processes were started with the same method, recipe, options and data.

    Raises:
        UsageError: in every process alike, naming what differs.
    """
    settings: Json = {**request.recipe.model_dump(mode="json", exclude={"init"}), "cpu": request.gpus == 0}
    settings |= request.model_dump(mode="json", exclude=OF_A_MACHINE | {"recipe"})
    settings |= {f"the data of split '{split}'": digest for split, digest in data.digests().items()}
    everyone = control.gather(settings)
    for name in dict.fromkeys(name for one in everyone for name in one):
        for rank, one in enumerate(everyone):
            first, other = everyone[0].get(name), one.get(name)
            if first != other:
                what = name if name.startswith("the data") else flag_of(name)
                values = "" if name.startswith("the data") else f": {shown(first)} and {shown(other)}"
                raise UsageError(
                    f"processes 0 and {rank} of this run differ in {what}{values}; "
                    "start all of them with the same command on the same data"
                )
