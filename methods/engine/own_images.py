"""Images that a person names by files and folders, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from attnbias.data.cores import available_cores
from attnbias.data.datasets import ImageDataset, Sample
from attnbias.data.index import Index, Record
from attnbias.data.survey import UNREADABLE, read_headers, remarks
from attnbias.data.tally import Tally
from attnbias.data.walk import SUFFIXES, walk_images
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import Loaded, input_words
from attnbias.methods.engine.requests import check_paths
from attnbias.methods.engine.screen import say


class Found(NamedTuple):
    """Images that a person named, each with a name to show, and what was left out of the folders, by reason."""

    images: list[tuple[str, Path]]
    left_out: Tally


def find_images(paths: Sequence[Path]) -> Found:
    """Named files, and the images below named folders; says on standard error what is left out of these.

    Raises:
        UsageError: a path does not exist, or a folder holds no image. DataError: a folder may not be read.
    """
    check_paths(paths)
    found: list[tuple[str, Path]] = []
    left_out = Tally()
    for path in paths:
        if path.is_dir():
            others = Tally()
            images = walk_images(path, others, f"{path}/")
            if not images:
                instead = f", only {'; '.join(others.lines())}" if others else ""
                raise UsageError(f"folder {path} holds no image ({', '.join(SUFFIXES)}){instead}")
            found += [(image, path / image) for image in sorted(images, key=lambda name: Path(name).parts)]
            left_out.merge(others)
        else:
            found.append((path.name, path))
    for line in left_out.lines():
        say(f"left out: {line}", error=True)
    return Found(found, left_out)


def say_how_read(images: Sequence[Path]) -> Tally:
    """Say on standard error, and return, which of one's own images are turned upright or hold several frames."""
    noticed = remarks(read_headers(images, available_cores()), "upright")
    noticed.pop(UNREADABLE, None)  # said of each when it is read
    for line in noticed.lines():
        say(line, error=True)
    return noticed


def say_how_made(loaded: Loaded, amp: str = "no", *, of_maps: bool = False) -> None:
    """Say on standard error how images are made for a model, or for its maps, and which mixed precision computed."""
    how = "" if amp == "no" else f"; computed with --amp {amp}"
    say(f"images for {loaded.source}: {input_words(loaded.method, loaded.recipe, of_maps=of_maps)}{how}", error=True)


class OwnImages(ImageDataset):
    """Images without labels, of whatever sizes."""

    def collate(self, samples: Sequence[Sample] | Sample) -> Sample:
        good = [] if isinstance(samples, dict) else [sample for sample in samples if "image" in sample]
        if len({sample["image"].shape for sample in good}) > 1:
            raise UsageError("this recipe does not resize, and the images differ in size; add --eval-batch-size 1")
        return super().collate(samples)


def open_own(
    loaded: Loaded, images: Sequence[str | Path | Image.Image], on_bad_image: Literal["error", "skip"] = "error"
) -> OwnImages:
    """Images as a model wants them, upright whatever the model's own dataset is; their labels mean nothing.

    Those in memory are upright and RGB already.
    """
    target = (0,) * len(loaded.classes) if loaded.task == "multilabel" else 0
    paths = [path_of(image, position) for position, image in enumerate(images)]
    records = tuple(Record(path, target) for path in paths)
    index = Index("own", "pictures", loaded.task, loaded.classes, Path("/"), records, orientation="upright")
    transform = loaded.method.transform(loaded.recipe, train=False)
    dataset = OwnImages(index, transform, on_bad_image=on_bad_image)
    dataset.in_memory = in_memory(images)
    return dataset


def path_of(image: str | Path | Image.Image, position: int) -> str:
    """The path of a file, or one that an image in memory goes by."""
    return f"in memory: {position}" if isinstance(image, Image.Image) else str(Path(image).absolute())


def in_memory(images: Sequence[str | Path | Image.Image]) -> dict[str, Image.Image]:
    """Those that are in memory, by their paths."""
    return {path_of(image, position): image for position, image in enumerate(images) if isinstance(image, Image.Image)}
