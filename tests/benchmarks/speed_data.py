"""Data on one core: from files to tensors, the measures of a whole split, the annotations of all of COCO."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import Figure, compare, median_seconds
from PIL import Image

from attnbias.data.datasets import ImageDataset
from attnbias.data.images import Decode
from attnbias.data.index import Index, Record
from attnbias.data.sets.coco import read_coco
from attnbias.methods.engine.metrics import multilabel_measures
from attnbias.methods.engine.registry import get_method

IMAGES, CLASSES, OBJECTS = 82_783, 80, 604_907
"""Those of COCO's train2014."""


def photographs(folder: Path) -> dict[str, list[Path]]:
    """COCO photographs where they stand beside the repository, else a made-up file of their size; and a large one."""
    real = Path(__file__).parents[3] / "shared" / "data" / "coco128" / "images"
    files, words = sorted(real.rglob("*.jpg"))[:24], "COCO photographs"
    if not files:
        noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(folder / "made_up.jpg", quality=90)
        files, words = [folder / "made_up.jpg"], "a made-up 640 x 480 JPEG"
    with Image.open(files[0]) as image:
        image.resize((4000, 3000)).save(folder / "large.jpg", quality=92)
    return {words: files, "a JPEG of 12 megapixels": [folder / "large.jpg"]}


def opened(method_name: str, files: list[Path], train: bool, decode: Decode) -> ImageDataset:
    """The files as a method's COCO recipe reads them."""
    index = Index("some", "train", "multilabel", ("a",), Path("/"), tuple(Record(str(f), (1,)) for f in files))
    method = get_method(method_name)
    recipe = method.named_recipe(method.default_recipe("coco")).recipe
    return method.open_dataset(recipe, index, train=train, decode=decode)


def read(dataset: ImageDataset) -> None:
    for position in range(len(dataset)):
        dataset[position]


def loaders(rounds: int) -> Iterator[Figure]:
    """Samples a second of one core at 448 px, and `--decode fast` against exact: its time and its pixels."""
    with tempfile.TemporaryDirectory() as folder:
        for words, files in photographs(Path(folder)).items():
            at_least = (80, 110) if len(files) > 1 else (None, None)
            # IDA's training pipeline needs PIL images, so there is no fast one.
            for name, train, kinds in (
                ("csra", True, ("exact", "fast")),
                ("csra", False, ("exact", "fast")),
                ("ida", True, ("exact",)),
            ):
                what = f"{name} {'training' if train else 'evaluation'}, {words} -> 448 px"
                read_by = {kind: partial(read, opened(name, files, train, kind)) for kind in kinds}
                if "fast" in read_by:
                    pair = read_by["fast"], read_by["exact"]
                    figure = compare(f"{what}: fast / exact decoding", *pair, rounds, per=len(files))
                    yield figure
                    speeds = {"exact": 1e3 / (figure.baseline or 1), "fast": 1e3 / figure.value}
                else:
                    speeds = {"exact": len(files) / median_seconds(read_by["exact"], rounds)}
                for (kind, speed), target in zip(speeds.items(), at_least, strict=False):
                    yield Figure(f"{what}, {kind}", speed, "samples/s", target=target, direction="at least")
            exact, fast = (opened("csra", files, False, kind) for kind in ("exact", "fast"))
            levels = torch.stack([255 * (exact[i]["image"] - fast[i]["image"]).abs() for i in range(len(exact))])
            for what, value in (("largest", levels.max()), ("mean", levels.mean())):
                yield Figure(f"{words}: {what} difference of fast from exact", float(value), "of 255 levels")


def measures(rounds: int) -> Iterator[Figure]:
    """All measures of a split of COCO's size."""
    rng = np.random.default_rng(0)
    scores = rng.random((40_504, CLASSES), dtype=np.float32)
    targets = (rng.random((40_504, CLASSES)) < 0.04).astype(np.int64)
    spent = median_seconds(lambda: multilabel_measures(targets, scores), rounds)
    yield Figure("all measures of 40,504 x 80 scores", spent, "s", target=0.5)


def index(rounds: int) -> Iterator[Figure]:
    """Annotations of COCO's size, made up: in a process of its own, whose memory is measured too."""
    del rounds  # one pass is long enough
    with tempfile.TemporaryDirectory() as folder:
        write_annotations(Path(folder) / "instances.json")
        told = subprocess.run([sys.executable, __file__, folder], check=True, capture_output=True, text=True).stdout
    for case, (value, unit, target) in json.loads(told).items():
        yield Figure(f"{case}, {IMAGES:,} images, {OBJECTS:,} objects", value, unit, target=target)


def write_annotations(path: Path) -> None:
    """An instances file like COCO's: an outline of ten points for each object."""
    rng = np.random.default_rng(0)
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 640, "height": 480} for n in range(IMAGES)]
    corners = rng.uniform(0, 400, (OBJECTS, 20)).round(2).tolist()
    owners, labels = rng.integers(IMAGES, size=OBJECTS).tolist(), rng.integers(1, CLASSES + 1, size=OBJECTS).tolist()
    info = {"area": 1234.5, "iscrowd": 0}
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": outline[:4], "segmentation": [outline], **info}
        for n, (i, c, outline) in enumerate(zip(owners, labels, corners, strict=True))
    ]
    categories = [{"id": n, "name": f"class {n}", "supercategory": "thing"} for n in range(1, CLASSES + 1)]
    with path.open("w") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)


def measure_index(folder: Path) -> None:
    """Print what the index of the annotations in `folder` costs: case -> (value, unit, target)."""
    path = folder / "index" / "train.json"
    path.parent.mkdir()
    told: dict[str, tuple[float, str, float | None]] = {}

    def timed(case: str, start: float) -> None:
        told[case] = (time.process_time() - start, "s", None)

    start = time.process_time()
    records = read_coco(folder / "instances.json", folder)
    timed("read the annotations", start)
    middle = time.process_time()
    records.write(path)
    timed("write the index", middle)
    told["prepare the index in all"] = (time.process_time() - start, "s", 60)
    start = time.process_time()
    again = Index.read(path)
    timed("read the index, as each run does", start)
    start = time.process_time()
    ImageDataset(again, lambda image: image)
    timed("open it as a dataset", start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB -> GiB
    told["peak memory of all this"] = (peak, "GiB", 3)
    print(json.dumps(told))


if __name__ == "__main__":
    measure_index(Path(sys.argv[1]))
