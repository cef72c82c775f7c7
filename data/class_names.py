"""Class names of published sets, known without their files: for checkpoints whose set is not prepared here."""

from __future__ import annotations

from attnbias.data.archived import STL10_CLASSES
from attnbias.data.sets import imagenet, voc, wider

COCO = (
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
"""The 80 categories in the order of their ids, which is that of every program here."""

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def known_class_names(dataset: str) -> tuple[str, ...]:
    """The classes of a set in its order, empty where they are only known from its files."""
    match dataset:
        case "coco":
            return COCO
        case "voc07":
            return voc.CLASSES
        case "wider":
            return wider.CLASSES
        case "imagenet":
            return imagenet.class_names()
        case "cifar10":
            return CIFAR10
        case "stl10":
            return STL10_CLASSES
    return ()
