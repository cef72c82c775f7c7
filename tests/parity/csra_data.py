"""CSRA's data side: the index files of its prepare programs (kind `index`) and its transforms (kind `prep`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from attnbias.data.csra_index import csra_coco, csra_voc, csra_wider
from attnbias.data.datasets import ImageDataset
from attnbias.data.index import Index, Record
from attnbias.data.sets.coco import read_coco
from attnbias.data.sets.voc import read_voc
from attnbias.data.sets.wider import read_wider
from attnbias.data.transforms.basic import ToNormalizedTensor
from attnbias.methods.csra.method import METHOD
from attnbias.methods.engine.recipe import override
from tests.parity import golden
from tests.parity.golden_case import Golden


def _index(case: Golden) -> dict[str, Any]:
    data_path = case.config["data_path"]
    with TemporaryDirectory() as folder:
        for name, text in case.input("files").items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        name, files = _published(case.config["script"], Path(folder, data_path), data_path)
    texts = {file.replace("csra/", f"data/{name}/"): text for file, text in files.items()}
    return {"files": {file: json.loads(text) for file, text in texts.items()}, "files_raw": texts}


def _published(script: str, source: Path, data_path: str) -> tuple[str, dict[str, str]]:
    match script:
        case "prepare_coco.py":
            train, val = (
                read_coco(source / f"annotations/instances_{split}2014.json", source, split=split)
                for split in ("train", "val")
            )
            return "coco", csra_coco(train, val, data_path)
        case "prepare_voc.py":
            # The program never reads trainval.txt, and passes over ids without annotation.
            trainval = read_voc(source / "VOC2007", "trainval", lists=("train", "val"), missing="skip")
            return "voc07", csra_voc(trainval, read_voc(source / "VOC2007", "test", missing="skip"), data_path)
        case "prepare_wider.py":
            trainval, test = (
                read_wider(source / f"Annotations/wider_attribute_{split}.json", source, split)
                for split in ("trainval", "test")
            )
            return "wider", csra_wider(trainval, test, data_path)
    raise ValueError(f"unknown script {script}")


def _prep(case: Golden) -> dict[str, Any]:
    """Write the case's images without loss, and read them as samples of a dataset."""
    spec = case.inputs["images"]
    with TemporaryDirectory() as folder:
        records = []
        for number, item in enumerate(spec["items"]):
            _image(item, spec["salt"]).save(Path(folder, f"{number}.png"))
            crop = tuple(item["bbox"]) if "bbox" in item else None
            records.append(Record(f"{number}.png", (0,), crop=crop))
        index = Index("case", "case", "multilabel", ("any",), Path(folder), tuple(records))
        dataset_name = case.config.choice("dataset", {name: name for name in ("voc07", "coco", "wider")})
        transform = _transform(dataset_name, train=False, image_size=case.config["img_size"])
        words = " | ".join("\n".join(lines) for lines in _printed(transform).values())
        case.config.only(augs=[], transform=words)
        dataset = ImageDataset(index, transform)
        return {f"item{number}": dataset[number]["image"] for number in range(len(records))}


def _image(item: dict[str, Any], salt: int) -> Image.Image:
    height, width = item["height"], item["width"]
    image = Image.fromarray(golden.image(item["name"], height, width, salt))
    if item["mode"] == "L":
        return image.getchannel(0)
    if item["mode"] == "RGBA":
        image.putalpha(Image.fromarray(golden.image(f"{item['name']}.alpha", height, width, salt)).getchannel(0))
    return image


def _prep_train_params(case: Golden) -> dict[str, Any]:
    """The pipelines that the product builds, in the words in which the published program prints its own."""
    return {
        "voc07/coco train": _printed(_transform("voc07", train=True)),
        "wider train": _printed(_transform("wider", train=True)),
        "eval voc07/coco": _printed(_transform("coco", train=False)),
        "eval wider": _printed(_transform("wider", train=False)),
        "optional ColorJitter": _printed(_transform("voc07", train=True, color_jitter=True)),
    }


def _transform(dataset: str, train: bool, **changes: Any) -> v2.Compose:
    """CSRA's pipeline by its recipe for the dataset."""
    recipe = METHOD.named_recipe(METHOD.default_recipe(dataset)).recipe
    return METHOD.transform(override(recipe, changes), train)


def _printed(pipeline: v2.Compose) -> dict[str, list[str]]:
    *augment, to_tensor = pipeline.transforms
    assert isinstance(to_tensor, ToNormalizedTensor)
    mean, std = (f"[{', '.join(f'{value:g}' for value in values)}]" for values in (to_tensor.mean, to_tensor.std))
    return {
        "augment": ["Compose(", *(f"    {_line(step)}" for step in augment), ")"],
        "to_tensor": ["Compose(", "    ToTensor()", f"    Normalize(mean={mean}, std={std})", ")"],
    }


def _line(step: Any) -> str:
    """One torchvision v2 step as torchvision's first version prints it; all figures are read from the step."""
    match step:
        case v2.RandomHorizontalFlip():
            return f"RandomHorizontalFlip(p={step.p})"
        case v2.ColorJitter():
            ranges = (f"{name}={getattr(step, name)}" for name in ("brightness", "contrast", "saturation", "hue"))
            return f"ColorJitter({', '.join(ranges)})"
        case v2.RandomResizedCrop():
            ratio = tuple(round(value, 4) for value in step.ratio)
            return f"RandomResizedCrop(size={step.size}, scale={step.scale}, ratio={ratio}, {_resampling(step)})"
        case v2.Resize():
            max_size = f"max_size={step.max_size}"
            interpolation, antialias = _resampling(step).split(", ")
            return f"Resize(size={tuple(step.size)}, {interpolation}, {max_size}, {antialias})"
    raise ValueError(f"a step that the published program does not have: {step}")


def _resampling(step: Any) -> str:
    return f"interpolation={InterpolationMode(step.interpolation).value}, antialias={step.antialias}"


RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "index": _index,
    "prep": _prep,
    "prep_train_params": _prep_train_params,
}

NOT_OWED = {"stdout": "console messages of the published prepare programs, wall-clock times among them"}
