"""The data side of AbSViT's segmentation: listings, label values, resizing, the crop rule and both pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from attnbias.data.index import Index, Record
from attnbias.data.label_maps import IGNORE, open_label_map
from attnbias.data.sets.palettes import palette
from attnbias.data.sets.segmentation_sets import (
    REDUCED,
    list_pairs,
    read_ade20k,
    read_cityscapes,
    read_voc_segmentation,
)
from attnbias.data.transforms.opencv import rescaled, resize_image, resize_labels
from attnbias.data.transforms.segmentation import (
    MEAN,
    STD,
    Distortion,
    Draw,
    EvalTransform,
    TrainTransform,
    choose_crop,
)
from tests.parity.golden_case import Golden


def _prep_eval(case: Golden) -> dict[str, Any]:
    photo, scale = case.input("photo"), tuple(case.config["scale_long_short"])
    case.config.only(size=list(photo.shape[:2]), mean=list(MEAN), std=list(STD))
    return {
        "resized_rgb_uint8": resize_image(photo, rescaled(photo.shape[:2], scale)),
        "network_input": EvalTransform(scale).images(photo)[0],
    }


def _prep_train(case: Golden) -> dict[str, Any]:
    config = case.config
    photo, labels = case.input("photo"), case.input("label").astype(np.uint8)
    config.only(size=list(labels.shape))
    colours = ["saturation", "hue"]
    words = config.get("order", "").split(", ")
    steps = ["brightness", *colours, "contrast"] if words[-1] == "contrast" else ["brightness", "contrast", *colours]
    config.only(order=", ".join(step for step in steps if step in words))
    draw = Draw(
        size=rescaled(labels.shape, tuple(config["scale"])),
        corner=tuple(config["crop_offset_y_x"]),
        flip=config["flip"],
        distortion=Distortion(
            brightness=config.get("brightness_beta"),
            contrast=config.get("contrast_alpha"),
            saturation=config.get("saturation_alpha"),
            hue=config.get("hue_delta_opencv_degrees_half"),
            contrast_last=steps[-1] == "contrast",
        ),
    )
    transform = TrainTransform(crop=tuple(config["crop_h_w"]))
    image, target = transform.apply(photo, labels, draw)
    cropped = resize_image(photo, draw.size, *transform.window(draw.corner), draw.flip)
    return {
        "resized_rgb": resize_image(photo, draw.size),
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


def _labels(case: Golden) -> dict[str, Any]:
    """Every value of the case as a pixel of a real file, read as the dataset reads it."""
    values = np.array([case.config["png_values"]], np.uint8)
    classes = tuple(str(number) for number in range(IGNORE))
    with TemporaryDirectory() as folder:
        Image.fromarray(values).save(Path(folder, "labels.png"))
        record = Record("picture.jpg", 0, label_map="labels.png")
        table = REDUCED if case.config["reduce_zero_label"] else None
        index = Index("case", "val", "segmentation", classes, Path(folder), (record,), label_values=table)
        return {"labels": open_label_map(index, 0)[0].tolist()}


def _index(case: Golden) -> dict[str, Any]:
    """The case's files, empty, listed by the set's own reader."""
    files, lists = case.config["files"], case.config["splits"]
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in {**dict.fromkeys(files, ""), **lists}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        index, images, labels = _listed(case, root)
    rows = [
        [record.path.removeprefix(f"{images}/"), str(record.label_map).removeprefix(f"{labels}/")]
        for record in index.records
    ]
    return {"rows": rows, "classes": list(index.classes), "palette": palette(index.classes)}


def _listed(case: Golden, root: Path) -> tuple[Index, str, str]:
    """The index of the case's files, and the folders that its rows are relative to."""
    files, lists = case.config["files"], list(case.config["splits"])
    case.config.only(reduce_zero_label=case.config["num_classes"] == 150, ignore_index=IGNORE)
    match case.config["num_classes"]:
        case 21:
            name = Path(lists[0]).stem if lists else "train"
            names = None if lists else [Path(name).stem for name, _ in list_pairs(root / "JPEGImages", ".jpg", ".png")]
            return read_voc_segmentation(root, name, names=names), "JPEGImages", "SegmentationClass"
        case 19:
            split = "train" if any("/train/" in file for file in files) else "val"
            return read_cityscapes(root, split), f"leftImg8bit/{split}", f"gtFine/{split}"
        case 150:
            split = "train" if any("/training/" in file for file in files) else "val"
            folder = "training" if split == "train" else "validation"
            return read_ade20k(root, split), f"images/{folder}", f"annotations/{folder}"
    raise ValueError(f"a set of {case.config['num_classes']} classes")


RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "prep_eval": _prep_eval,
    "prep_train": _prep_train,
    "labels": _labels,
    "index": _index,
    "crop_rule": _crop_rule,
    "resize_sizes": _resize_sizes,
}
