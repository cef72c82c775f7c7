"""Measures of attention bias and of context: the goldens through the product's, which belong to no method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnbias.methods.engine.bias.attention_bias import TAUS, PixelHistogram, aggregate, box_mask, measure_maps
from attnbias.methods.engine.bias.context import biased_pairs, pair_precision
from attnbias.methods.engine.bias.faithfulness import area_under, faithfulness_curves
from tests.parity.golden_case import Golden, UncomputedSetting


def box_masks(case: Golden) -> dict[str, Any]:
    config = case.config
    return {"mask": box_mask(np.array(config["boxes_xyxy"]), config["height"], config["width"])}


def bias_measures(case: Golden) -> dict[str, Any]:
    config = case.config
    size = config["height"], config["width"]
    maps = np.stack([bias_map(case.input(f"map{i}"), s["kind"]) for i, s in enumerate(config["samples"])])
    masks, ignored = (
        np.stack([box_mask(np.array(sample[key]), *size) for sample in config["samples"]])
        for key in ("boxes_xyxy", "ignore_xyxy")
    )
    config.only(taus=TAUS)
    columns = measure_maps(maps, masks, ignored, tau=config["tau"], tolerance=config["tolerance_px"])
    pixels = PixelHistogram(bins=None)
    pixels.add(maps, masks, ignored)
    means = {**aggregate(columns), "pxap": pixels.value()}
    ours = {"energy_lift": "energy_lift_of_samples"}  # of each sample, and their mean; ours is a ratio of both means
    return {
        "table": np.stack([columns[ours.get(name, name)] for name in config["columns"]], axis=1),
        "aggregate": {name: means[ours.get(name, name)] for name in case.raw["data"]["aggregate"]},
    }


def bias_map(noise: Any, kind: str) -> Any:
    """A case's map, by its `map_rule`."""
    if kind == "constant":
        return np.full_like(noise, 0.7)
    if kind in ("in_box", "out_box"):
        corner = np.zeros_like(noise)
        corner[len(noise) // 2, 0] = 1
        return corner
    rules = {"normal": lambda x: x, "negative": lambda x: -np.abs(x) - 0.1, "quantised": np.round}
    if kind not in rules:
        raise UncomputedSetting(f"a map of the kind {kind!r}; known: constant, in_box, out_box, {', '.join(rules)}")
    return rules[kind](noise.astype(float))


def context_pairs(case: Golden) -> dict[str, Any]:
    labels = case.input("labels").astype(np.float64)
    mixed = 0.6 * case.input("scores").astype(np.float64) + 0.25 * labels + 0.1 * labels * np.roll(labels, 1, axis=1)
    scores = np.round(200 * np.clip(mixed, 0, 1)) / 200
    pairs = biased_pairs(labels, scores, count=case.config["k"], min_cooccurrence=case.config["min_cooccur"])
    precisions = np.array([pair_precision(labels, scores, pair) for pair in pairs])
    columns = ["b", "c", "bias", "n_cooccur", "n_exclusive"]  # the fields of a pair
    case.config.only(columns_pairs=columns, columns_ap=["cooccur_ap", "exclusive_ap"])
    return {"pairs": np.array(pairs), "ap": precisions, "mean": precisions.mean(0)}


def faithfulness(case: Golden) -> dict[str, Any]:
    image, saliency, filtered = (torch.from_numpy(case.input(name)) for name in ("image", "saliency", "filter"))
    case.config.only(
        deletion_substrate="zeros",
        insertion_substrate="Gaussian blur kernel 11 sigma 5, reflect padding",
        order="descending saliency, stable",
        curve="first value is the untouched start image; trapezoid AUC = (sum - first/2 - last/2)/(n-1)",
    )

    def score(images: Tensor) -> Tensor:
        return torch.sigmoid(4 * (images * filtered).double().sum((1, 2, 3)) / image.numel() ** 0.5)

    curves = faithfulness_curves(image, saliency, score, pixels_per_step=case.config["pixels_per_step"], batch_size=5)
    areas = {f"{name}_auc": area_under(curve) for name, curve in curves._asdict().items()}
    return {**areas, **{f"{name}_curve": curve for name, curve in curves._asdict().items()}}


RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "bias_box_mask": box_masks,
    "bias_context_pairs": context_pairs,
    "bias_deletion_insertion": faithfulness,
    "bias_metrics": bias_measures,
}

DESCRIPTIVE = {
    "bias_*:map_rule": "a sentence about how the case's maps are made",
    "bias_*:score_rule": "a sentence about how the case's scores are made",
    "bias_box_mask_a:boxes_xyxy[[]2][[]1]": "the third box holds no pixel's centre, wherever it begins",
}
