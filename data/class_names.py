"""Class names of published sets, known without their files: for checkpoints whose set is not prepared here.

The catalogue names these functions (`class_names`).
"""

from __future__ import annotations

from attnbias.data.archived import STL10_CLASSES
from attnbias.data.sets import voc as voc_files
from attnbias.data.sets import wider as wider_files
from attnbias.data.sets.imagenet import class_names as imagenet

__all__ = ["cifar10", "coco", "imagenet", "stl10", "voc", "wider"]


def coco() -> tuple[str, ...]:
    """The 80 categories in the order of their ids, which is that of every program here."""
    return (
        *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
        *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
        *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
        *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
        *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
        *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
        *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
        *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
        *("hair drier", "toothbrush"),
    )


def voc() -> tuple[str, ...]:
    """The 20 classes of VOC 2007 and 2012."""
    return voc_files.CLASSES


def wider() -> tuple[str, ...]:
    """The 14 attributes of WIDER-Attribute."""
    return wider_files.CLASSES


def cifar10() -> tuple[str, ...]:
    """The 10 classes of CIFAR-10."""
    return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def stl10() -> tuple[str, ...]:
    """The 10 classes of STL-10."""
    return STL10_CLASSES
