"""`val --reliance`: how much a prediction rests on the context, told by taking the object or the context away.

Needs no attention map: the picture is scored whole, with only the object, and with only the context; what is taken away
becomes ImageNet's mean colour, whatever the recipe's normalisation, so that methods can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from attnbias.data.datasets import PictureDataset
from attnbias.data.errors import DataError
from attnbias.data.transforms.basic import normalization
from attnbias.methods.engine.bias.objects import gathered, object_batches, resolve_truth
from attnbias.methods.engine.evaluation.evaluate import Evaluation
from attnbias.methods.engine.evaluation.job import Job
from attnbias.methods.engine.evaluation.probe import Measured, Probe, left_out_of
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.statistics import Ratio, interval
from attnbias.methods.engine.types import Truth

COLUMNS = ("probability", "object_only", "context_only", "kept", "reliance")


@torch.no_grad()
def measure_reliance(
    loaded: Loaded,
    dataset: PictureDataset,
    evaluation: Evaluation,
    accelerator: Accelerator,
    *,
    truth: Truth | None = None,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Means over the positive classes of all scored pictures, with 95 % intervals.

    `probability` of the class on the whole picture, `object_only` and `context_only`; `kept`, the share of the
    probability that the object alone gives, and `reliance`, the share that the context alone gives (each at most 1).

    Raises:
        DataError: the set has neither masks nor boxes, or no sample says anything.
    """
    against = resolve_truth(dataset, truth)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalization(loaded.recipe.normalize))
    grey = ((torch.tensor(normalization("imagenet")[0]).view(3, 1, 1) - mean) / std).to(accelerator.device)
    skipped: Counter[str] = Counter()
    mine: list[tuple[int, int, list[float]]] = []
    for images, samples in object_batches(
        dataset, evaluation.ids.tolist(), against.kind, accelerator, skipped, batch_size=batch_size
    ):
        slots = [sample.slot for sample in samples]
        labels = torch.tensor([sample.region.label for sample in samples], device=images.device)
        masks = torch.from_numpy(np.stack([sample.region.mask for sample in samples]))[:, None].to(images.device)
        whole = images[slots]  # (N, 3, H, W)
        shown = (whole, torch.where(masks, whole, grey), torch.where(masks, grey, whole))
        predicted = [loaded.method.predict(loaded.model, pictures, loaded.task)["scores"] for pictures in shown]
        scores = [values.double().gather(1, labels[:, None])[:, 0] for values in predicted]  # (N,) each
        full, alone, context = scores
        shares = [(part / full.clamp_min(1e-6)).clamp(0, 1) for part in (alone, context)]
        table = torch.stack([*scores, *shares], dim=1).cpu().tolist()
        mine += [(s.picture, s.region.label, values) for s, values in zip(samples, table, strict=True)]
    rows = sorted(gathered(accelerator, mine))
    counts: Counter[str] = Counter()
    for part in gathered(accelerator, [dict(skipped)]):
        counts.update(part)
    if not rows:
        raise DataError(f"{dataset.index.dataset}/{dataset.index.split} has no object to take away")
    pictures = np.array([picture for picture, _, _ in rows])
    columns = dict(zip(COLUMNS, np.array([values for _, _, values in rows]).T, strict=True))
    return {
        "truth": against.kind,
        "truth_reason": against.reason,
        "samples": len(rows),
        "skipped": dict(counts),
        "means": {name: float(values.mean()) for name, values in columns.items()},
        "intervals_95": {name: interval(Ratio.mean(values), pictures) for name, values in columns.items()},
    }


class RelianceProbe(Probe):
    """`val --reliance`."""

    name = "reliance"

    def wanted(self, job: Job) -> bool:
        return job.reliance

    def measure(self, measured: Measured) -> dict[str, Any]:
        job = measured.job
        return measure_reliance(
            measured.loaded,
            measured.dataset,
            measured.evaluation,
            measured.accelerator,
            truth=job.truth,
            batch_size=job.batch_size,
        )

    def heading(self, content: dict[str, Any]) -> str:
        return f"reliance ({content['truth']})"

    def figures(self, content: dict[str, Any]) -> Mapping[str, float]:
        means: Mapping[str, float] = content["means"]
        return means

    def remarks(self, content: dict[str, Any]) -> Sequence[str]:
        return left_out_of(self.name, content)
