"""Backbones by name: feature maps of any network, fresh or from published weights, and other image sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from attnbias.methods.engine.backbones import build_backbone, fit_resolution, load_backbone
from attnbias.methods.engine.errors import UsageError
from attnbias.weights.errors import WeightsError

TORCHVISION = ["mobilenet_v3_small", "shufflenet_v2_x0_5"]
TIMM = ["resnet18d", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224"]


def test_a_position_embedding_is_resampled_to_the_models_grid_and_keeps_its_class_token() -> None:
    small, large = build_backbone("vit_tiny_patch16_224", 64), build_backbone("vit_tiny_patch16_224", 96)
    name = "model.pos_embed"
    fitted = fit_resolution(large, small.state_dict(), "")
    assert fitted[name].shape == (1, 37, 192)
    assert torch.equal(fitted[name][:, 0], small.state_dict()[name][:, 0])
    assert torch.equal(fit_resolution(small, small.state_dict(), "")[name], small.state_dict()[name])
    large.load_state_dict(fitted)


def test_a_backbone_starts_from_a_published_classifier_without_its_head() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    state = {n: v for n, v in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    backbone = build_backbone("resnet18", 64)
    load_backbone(backbone, state, Path("resnet18.pth"))
    assert torch.equal(backbone.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
    del state["layer2.0.conv1.weight"]
    with pytest.raises(WeightsError, match=r"1 missing: layer2\.0\.conv1\.weight"):
        load_backbone(backbone, state, Path("resnet18.pth"))


@pytest.mark.parametrize("name", ["densenet121", "mnasnet0_5", "regnet_y_400mf", "squeezenet1_1", "swin_t"])
def test_features_are_what_the_networks_own_classifier_pools(name: str) -> None:
    """Some networks of torchvision apply a function between their modules; squeezenet pools class maps at the end."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    backbone, images, given = build_backbone(name, 64).eval(), torch.rand(1, 3, 64, 64), list[Tensor]()
    load_backbone(backbone, network.state_dict(), Path("whole.pth"))
    first = next(part for part, _ in network.named_children() if part in ("avgpool", "classifier", "head", "fc"))
    network.get_submodule(first).register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        network(images)
        features = backbone(images)
    torch.testing.assert_close(features if given[0].ndim == 4 else features.mean((2, 3)), given[0])


@pytest.mark.parametrize("name", ["tiny", "tiny_vit", *TORCHVISION, *TIMM])
def test_any_network_of_torchvision_or_timm_gives_feature_maps(name: str) -> None:
    backbone = build_backbone(name, 64).eval()
    with torch.no_grad():
        found = backbone(torch.rand(2, 3, 64, 64))
    assert found.ndim == 4
    assert found.shape[:2] == (2, backbone.num_features)
    assert found.shape[2] == found.shape[3]


@pytest.mark.parametrize(("name", "width", "depth"), [("vit_b16", 768, 12), ("vit_l16", 1024, 24)])
def test_a_paper_s_short_name_is_the_transformer_of_that_size(name: str, width: int, depth: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, 224)
        features = backbone(torch.zeros(1, 3, 224, 224))
    assert features.shape == (1, width, 14, 14)
    assert len(backbone.get_submodule("model.blocks")) == depth  # type: ignore[arg-type]


def test_a_fresh_backbone_has_seen_nothing() -> None:
    backbone = build_backbone("resnet18", 64)
    assert backbone.training
    assert (backbone.bn1.running_mean == 0).all()


def test_an_unknown_backbone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet101'"):
        build_backbone("resnet_101", 64)


def test_a_network_that_is_no_chain_is_not_offered_as_its_own_nearest_name() -> None:
    with pytest.raises(UsageError, match="unknown backbone 'maxvit_t'") as raised:
        build_backbone("maxvit_t", 64)
    assert "did you mean 'maxvit_t'" not in str(raised.value)
