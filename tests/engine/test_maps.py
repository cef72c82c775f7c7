"""Attention maps of any method: CAM, Grad-CAM on convolutions and tokens, resampling, normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from attnbias.methods.engine.display.overlay import resize_bilinear
from attnbias.methods.engine.errors import RunError, UsageError
from attnbias.methods.engine.maps import attention_maps, cam, explain, grad_cam, normalise, token_grid, upsample
from attnbias.methods.engine.types import Layer


class Small(nn.Module):
    """Two convolutions, an in-place ReLU between them, and a two-layer head, so that Grad-CAM is not CAM."""

    def __init__(self, deep_head: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, padding=1, stride=2)
        self.head = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5)) if deep_head else nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(torch.relu_(self.first(images)))
        return self.head(features.mean((-2, -1)))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(1))


def test_grad_cam_of_average_pooling_and_a_linear_layer_is_cam_over_the_number_of_cells(images: Tensor) -> None:
    model = Small(deep_head=False).eval()
    classes = torch.tensor([4, 1])
    features = model.second(model.first(images).relu())
    expected = cam(features, model.head.weight[classes]) / (6 * 8)
    maps = grad_cam(model, images, classes, model.second)
    torch.testing.assert_close(maps, expected.detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(explain("gradcam", model, images, classes, Layer(model.second)), maps.relu())


@pytest.mark.parametrize("layer", ["first", "second"])
@pytest.mark.parametrize("kind", ["gradcam", "layercam", "hirescam"])
def test_an_explainer_follows_its_definition_class_by_class_and_image_by_image(
    images: Tensor, layer: str, kind: str
) -> None:
    model = Small().eval()
    classes = torch.tensor([[0, 3], [2, 2], [4, 1]])
    maps = explain(kind, model, images, classes, Layer(getattr(model, layer)))
    for image in range(3):
        for position in range(2):
            first = model.first(images[image : image + 1])
            second = model.second(first.relu())
            features = first if layer == "first" else second
            score = model.head(second.mean((-2, -1)))[0, classes[image, position]]
            (gradient,) = torch.autograd.grad(score, features)
            means = gradient.mean((-2, -1), keepdim=True)
            weights = {"gradcam": means, "layercam": gradient.relu(), "hirescam": gradient}[kind]
            expected = (weights * features).sum(1).relu()[0]
            torch.testing.assert_close(maps[image, position], expected.detach(), atol=1e-6, rtol=1e-5)


def test_grad_cam_leaves_the_model_as_it_was_and_works_where_gradients_are_off(images: Tensor) -> None:
    model = Small().eval().requires_grad_(False)
    expected = model(images)
    with torch.inference_mode():
        maps = grad_cam(model, images * 1, torch.tensor([0, 1]), model.second)
    assert maps.shape == (3, 2, 6, 8)
    assert not maps.requires_grad
    assert maps.max() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(IndexError):
        grad_cam(model, images, torch.tensor([0]), nn.Linear(1, 1))  # a layer that is not in the model
    torch.testing.assert_close(model(images), expected)
    assert not model.second._forward_hooks


def test_grad_cam_lays_vit_tokens_out_as_a_grid() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), num_classes=4, depth=2).eval()
    images = torch.randn(2, 3, 64, 96)
    assert grad_cam(model, images, torch.tensor([3]), model.blocks[-1].norm1).shape == (2, 1, 4, 6)


class Permuted(nn.Module):
    """Gives (B, h, w, D), or tokens with two before those of the patches, and is put back by `Small`'s head."""

    def __init__(self, tokens: bool) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, features: Tensor) -> Tensor:
        if not self.tokens:
            return features.permute(0, 2, 3, 1)
        patches = features.flatten(2).transpose(1, 2)
        return torch.cat([patches.new_ones(len(patches), 2, patches.shape[2]), patches], 1)


@pytest.mark.parametrize("tokens", [False, True])
def test_a_map_is_the_same_however_the_layers_output_lies(images: Tensor, tokens: bool) -> None:
    model, classes = Small().eval(), torch.tensor([0, 3])
    expected = explain("hirescam", model, images, classes, Layer(model.second))
    laid_out = Permuted(tokens)

    class Other(Small):
        def forward(self, images: Tensor) -> Tensor:
            features = laid_out(self.second(torch.relu_(self.first(images))))
            return self.head(features[:, 2:].mean(1) if tokens else features.mean((1, 2)))

    other = Other().eval()
    layer = Layer(laid_out, prefix_tokens=2) if tokens else Layer(laid_out, channels_last=True)
    torch.testing.assert_close(explain("hirescam", other, images, classes, layer), expected)


@pytest.mark.parametrize(
    ("rows", "columns", "others", "size"),
    [
        (14, 14, 1, (224, 224)),
        (28, 28, 1, (448, 448)),
        (4, 6, 1, (64, 96)),
        (16, 16, 5, (256, 256)),
        (7, 3, 0, (112, 48)),
    ],
)
def test_token_grid_drops_leading_tokens_and_keeps_row_order(
    rows: int, columns: int, others: int, size: tuple[int, int]
) -> None:
    patches = torch.arange(rows * columns * 2.0).reshape(1, rows * columns, 2)
    grid = token_grid(torch.cat([torch.full((1, others, 2), -1.0), patches], 1), size)
    torch.testing.assert_close(grid, patches.reshape(1, rows, columns, 2).permute(0, 3, 1, 2))


def test_torch_and_numpy_resample_alike() -> None:
    maps = torch.rand(1, 1, 5, 7)
    ours = resize_bilinear(maps[0, 0].numpy(), (33, 20))
    np.testing.assert_allclose(upsample(maps, (33, 20))[0, 0].numpy(), ours, atol=1e-6)


@pytest.mark.parametrize("rule", ["minmax", "max"])
def test_normalised_maps_fill_zero_to_one_whatever_their_scale(rule: str) -> None:
    maps = torch.randn(4, 3, 6, 6)
    normal = normalise(maps, rule)
    assert normal.dtype == torch.float32
    torch.testing.assert_close(normal.amax((-2, -1)), torch.ones(4, 3))
    torch.testing.assert_close(normal.amin((-2, -1)), torch.zeros(4, 3))
    torch.testing.assert_close(normalise(1e-4 * maps, rule), normal)


def test_each_rule_keeps_its_word() -> None:
    maps = torch.tensor([[[2.0, 3.0], [4.0, 6.0]]])
    torch.testing.assert_close(normalise(maps, "minmax"), torch.tensor([[[0, 0.25], [0.5, 1]]]))
    torch.testing.assert_close(normalise(maps, "max"), torch.tensor([[[1 / 3, 0.5], [2 / 3, 1]]]))
    assert not normalise(torch.full((1, 4, 4), 0.7), "minmax").any()
    assert not normalise(torch.full((1, 4, 4), -0.7), "max").any()
    with pytest.raises(UsageError, match="minmax"):
        normalise(maps, "softmax")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_an_error_not_a_image(value: float) -> None:
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 2, 2] = value
    with pytest.raises(RunError, match="NaN"):
        normalise(maps, "minmax")


def test_unknown_maps_and_heads_of_grad_cam_are_refused(images: Tensor) -> None:
    from attnbias.methods.engine.registry import get_method

    method, model = get_method("csra"), Small().eval()
    with pytest.raises(UsageError, match="did you mean 'gradcam'"):
        attention_maps(method, model, images, torch.tensor([0]), "gradcamm")
    with pytest.raises(UsageError, match="--head"):
        attention_maps(method, model, images, torch.tensor([0]), "gradcam", head=1)
