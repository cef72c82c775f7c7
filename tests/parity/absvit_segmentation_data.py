"""The data side of AbSViT's segmentation: listings, label values, resizing, the crop rule and both pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from golden_case import Golden

from attnbias.data.transforms.segmentation import (
    Distortion,
    Draw,
    EvalTransform,
    TrainTransform,
    choose_crop,
    rescaled,
    resize_labels,
    resize_picture,
)


def _prep_eval(case: Golden) -> dict[str, Any]:
    photo, scale = case.input("photo"), tuple(case.config["scale_long_short"])
    return {
        "resized_rgb_uint8": resize_picture(photo, rescaled(photo.shape[:2], scale)),
        "network_input": EvalTransform(scale).image(photo),
    }


def _prep_train(case: Golden) -> dict[str, Any]:
    config = case.config
    photo, labels = case.input("photo"), case.input("label").astype(np.uint8)
    order = config.get("order", "").split(", ")
    draw = Draw(
        size=rescaled(labels.shape, tuple(config["scale"])),
        corner=tuple(config["crop_offset_y_x"]),
        flip=config["flip"],
        distortion=Distortion(
            brightness=config.get("brightness_beta"),
            contrast=config.get("contrast_alpha"),
            saturation=config.get("saturation_alpha"),
            hue=config.get("hue_delta_opencv_degrees_half"),
            contrast_last=order[-1] == "contrast",
        ),
    )
    transform = TrainTransform(crop=tuple(config["crop_h_w"]))
    image, target = transform.apply(photo, labels, draw)
    cropped = resize_picture(photo, draw.size, *transform.window(draw.corner), draw.flip)
    return {
        "resized_rgb": resize_picture(photo, draw.size),
        "resized_label": resize_labels(labels, draw.size),
        **{f"after_{name}": pixels for name, pixels in draw.distortion.steps(cropped)},
        "final_image": image,
        "final_label": target,
    }


def _crop_rule(case: Golden) -> dict[str, Any]:
    """The labels that the case describes in words, and its sequences of corners in place of random ones."""
    (height, width), crop = case.config["size"], case.config["crop"]
    coarse = case.input("coarse").astype(np.uint8)
    blocks = -(-height // coarse.shape[0]), -(-width // coarse.shape[1])
    labels = np.repeat(np.repeat(coarse, blocks[0], 0), blocks[1], 1)[:height, :width]
    labels[: height // 6] = 255

    def cut(corner: tuple[int, int]) -> Any:
        top, left = corner
        return labels[top : top + crop[0], left : left + crop[1]]

    rows = []
    for sequence in range(case.config["sequences"]):
        corners = iter(case.input("offsets_{s}", sequence).tolist())
        corner, drawn = choose_crop(lambda: tuple(next(corners)), cut, case.config["cat_max_ratio"])  # noqa: B023
        rows.append({"n_draws": drawn, "chosen_y_x": list(corner), "label_sum": int(cut(corner).sum())})
    return {"rows": rows}


def _resize_sizes(case: Golden) -> dict[str, Any]:
    """Sizes are (width, height) in the case."""
    rows = [
        [[width, height], scale, list(rescaled((height, width), tuple(scale))[::-1])]
        for (width, height), scale, _ in case.outputs["rows_w_h_scale_newsize"]["value"]
    ]
    return {"rows_w_h_scale_newsize": rows}


RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "prep_eval": _prep_eval,
    "prep_train": _prep_train,
    "crop_rule": _crop_rule,
    "resize_sizes": _resize_sizes,
}
