"""Grad-CAM, LayerCAM and HiResCAM against pytorch-grad-cam, in networks of many families.

`pip install grad-cam` makes it run; it is not needed otherwise. Both get the same layer: what is compared is hooks,
gradients, layouts of features, and formulas.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnbias.methods.engine.maps import explain, on_grid
from attnbias.methods.engine.types import Layer
from attnbias.methods.plain.layer import find_layer
from tests.engine.test_backbone_families import whole_network

pytest.importorskip("pytorch_grad_cam", reason="needs pip install -e '.[oracles]'")

FAMILIES = (
    "resnet10t",
    "convnext_atto",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "regnetx_002",
    "densenet121",
    "swin_tiny_patch4_window7_224",
    "maxvit_rmlp_pico_rw_256",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
)
SIDES = {"swin_tiny_patch4_window7_224": 224, "maxvit_rmlp_pico_rw_256": 256, "vit_small_patch14_reg4_dinov2": 112}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_maps_are_those_of_pytorch_grad_cam(name: str) -> None:
    side = SIDES.get(name, 128)
    torch.manual_seed(0)
    network = whole_network(name, side).eval()
    layer = find_layer(network, side)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    for kind in ("gradcam", "layercam", "hirescam"):
        every = explain(kind, network, images, torch.arange(4), layer)
        assert (every.amax((2, 3)) > every.amin((2, 3))).any(), "flat maps agree whatever is done"
        worst = 0.0
        for label in range(4):
            theirs = oracle(kind, network, layer.module, images, label, lambda f: as_grid(f, layer, side))
            worst = max(worst, float(np.abs(stretched(every[:, label].numpy()) - theirs).max()))
        print(f"{name} {kind} {worst:.2g}")
        assert worst < 1e-4


def as_grid(features: Tensor, layer: Layer, side: int) -> Tensor:
    return on_grid(features, layer, (side, side), tokens=features.ndim == 3)


def stretched(maps: np.ndarray) -> np.ndarray:
    """As pytorch-grad-cam scales each map: of each layer, and again their mean."""
    for _ in range(2):
        maps = maps - maps.min((1, 2), keepdims=True)
        maps = maps / (1e-7 + maps.max((1, 2), keepdims=True))
    return maps


def oracle(kind: str, network: nn.Module, layer: nn.Module, images: Tensor, label: int, reshape: object) -> np.ndarray:
    """Maps (B, h, w) at the resolution of the layer."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    names = {"gradcam": "GradCAM", "layercam": "LayerCAM", "hirescam": "HiResCAM"}
    with getattr(pytorch_grad_cam, names[kind])(network, [layer], reshape_transform=reshape) as cam:
        cam.get_target_width_height = lambda _images: None  # maps stay as large as the layer's grid
        return np.asarray(cam(input_tensor=images, targets=[ClassifierOutputTarget(label)] * len(images)))
