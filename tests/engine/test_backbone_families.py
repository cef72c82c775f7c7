"""Any classifier of timm or torchvision is a backbone of the convolutional heads, with its own weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from attnbias.methods.csra.model import MultiHeadClassifier
from attnbias.methods.engine.backbones import (
    Backbone,
    TimmFeatures,
    build_backbone,
    fit_resolution,
    load_backbone,
)
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.export import runner, wrap, write_graph
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.registry import get_method
from attnbias.methods.ida.model import InterventionalClassifier
from attnbias.weights.errors import WeightsError

FAST = [
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
    "convnextv2_atto",
    "inception_next_atto",
    "edgenext_xx_small",
    "mambaout_femto",
    "regnety_002",
    "resnet10t",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "test_convnext",
]
"""The smallest of their families."""
SLOW = [
    "beit_base_patch16_224",
    "cait_xxs24_224",
    "caformer_s18",
    "coatnet_nano_rw_224",
    "convmixer_768_32",
    "davit_tiny",
    "deit3_small_patch16_224",
    "densenet121",
    "dla34",
    "dpn68",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "efficientvit_m0",
    "fastvit_t8",
    "fasternet_t0",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "ghostnet_050",
    "gmlp_s16_224",
    "hgnet_tiny",
    "hiera_tiny_224",
    "hrnet_w18_small",
    "maxvit_rmlp_pico_rw_256",
    "mixer_s32_224",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "naflexvit_base_patch16_gap",
    "nfnet_l0",
    "poolformer_s12",
    "pvt_v2_b0",
    "rdnet_tiny",
    "repvgg_a0",
    "repvit_m0_9",
    "resnetv2_50",
    "rexnet_100",
    "seresnet50.a1_in1k",
    "shvit_s1",
    "starnet_s1",
    "swinv2_tiny_window8_256",
    "tf_efficientnetv2_b0",
    "tiny_vit_5m_224",
    "twins_pcpvt_small",
    "vgg11.tv_in1k",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_medium_patch16_rope_reg1_gap_256",
    "vit_pe_core_tiny_patch16_384",
    "vit_small_patch14_dinov2",
    "vit_tiny_patch16_224",
    "volo_d1_224",
    "xception41",
    "xcit_nano_12_p16_224",
]
ALL = [*FAST, *SLOW]
SIZE = 64
SWIN = "swin_tiny_patch4_window7_224"
HEADS = [("csra", {"num_heads": 2}), ("ida", {"samples": 2, "heavy": False})]
REFUSED = {
    "coat_tiny": "no single feature map",
    "crossvit_tiny_240": "cannot take images of 64 pixels",
    "inception_v3": "cannot take images of 64 pixels",
    "pit_ti_224": "its 1 token is not a grid of patches",
}
"""Networks without one grid of features, or none at this size, and what is said of them."""


class UnderBothHeads(nn.Module):
    """A backbone under CSRA's and IDA's heads, as one loss."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        width = backbone.num_features
        self.backbone = backbone
        self.csra = MultiHeadClassifier(width, 3, (1, 99), lam=0.1)
        self.ida = InterventionalClassifier(width, 3, samples=2, heavy=False, beta=1 / 32, token_layout="interleaved")

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        return self.csra(features).square().sum() + self.ida(features).square().sum()


def whole_network(name: str, size: int = SIZE) -> Any:
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    return timm.create_model(name, **({"img_size": size} if fixed else {})).eval()


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_family_trains_every_parameter_and_takes_its_own_weights(name: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    backbone, images = build_backbone(name, SIZE), torch.rand(2, 3, SIZE, SIZE)
    assert backbone(images).shape[:2] == (2, backbone.num_features)
    UnderBothHeads(backbone)(images).backward()
    unreached = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert not unreached, "several processes would wait for these gradients"

    whole = whole_network(name)
    load_backbone(backbone, whole.state_dict(), Path("whole.pth"))
    assert "resampled" not in caplog.text
    with torch.no_grad():
        reference, found = whole.forward_features(images), backbone.eval()(images)
    if reference.ndim == 3:
        reference = reference[:, reference.shape[1] - found[0, 0].numel() :].transpose(1, 2).reshape(found.shape)
    elif reference.shape != found.shape:
        reference = reference.permute(0, 3, 1, 2)
    torch.testing.assert_close(found, reference)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_processes_wait_for_no_gradient_of_any_family(tmp_path: Path) -> None:
    """One pair of processes for all: a parameter without a gradient stops DistributedDataParallel at the next step."""
    torch.multiprocessing.spawn(  # type: ignore[no-untyped-call]
        two_steps, args=(ALL, tmp_path), nprocs=2
    )
    failed = json.loads((tmp_path / "failed.json").read_text())
    assert not failed


def two_steps(rank: int, names: list[str], folder: Path) -> None:
    """As one of two processes, train each family twice under both heads; write what went wrong."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    failed = {}
    for name in names:
        torch.manual_seed(0)
        wrapped = nn.parallel.DistributedDataParallel(UnderBothHeads(build_backbone(name, SIZE)))
        try:
            for _ in range(2):
                wrapped(torch.rand(2, 3, SIZE, SIZE)).backward()
        except RuntimeError as error:
            failed[name] = str(error)
        if unreached := [part for part, p in wrapped.named_parameters() if p.requires_grad and p.grad is None]:
            failed[name] = f"no gradient: {', '.join(unreached)}"
    if rank == 0:
        (folder / "failed.json").write_text(json.dumps(failed))
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(1200)  # twenty seconds of computing, on a machine that is busy
@pytest.mark.parametrize(
    "name", [FAST[-1], *(pytest.param(name, marks=pytest.mark.slow) for name in ALL if name != FAST[-1])]
)
def test_a_family_is_exported_with_its_maps(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = get_method("csra")
    recipe = method.recipe_type(backbone=name, image_size=SIZE, num_heads=1, dataset="demo")
    model = method.build_model(recipe, 3, "multilabel").eval()
    loaded = Loaded(method, recipe, model, tuple("abc"), "multilabel", "fresh")
    exported = wrap(loaded, top_k=2)
    write_graph(exported, loaded, "torch-export", tmp_path / "m.pt2")
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        for ours, theirs in zip(exported(images), runner(tmp_path / "m.pt2", "torch-export")(images), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "words"), REFUSED.items())
def test_a_network_that_cannot_be_a_backbone_says_why(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"backbone {name} .*{words}"):
        build_backbone(name, SIZE)


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3", SWIN])
def test_features_lie_where_the_image_has_them(name: str) -> None:
    """Registers and class tokens do not shift the grid, and channels are not taken for rows."""
    torch.manual_seed(0)
    backbone, images = build_backbone(name, 128).eval(), torch.rand(1, 3, 128, 128)
    changed = images.clone()
    changed[..., 96:, 32:64] += 5  # of 4 x 4 parts the lowest one of the second column
    with torch.no_grad():
        moved = (backbone(changed) - backbone(images)).square().sum(1)[0]
    parts = nn.functional.adaptive_max_pool2d(moved[None], 4).flatten()
    assert int(parts.argmax()) == 3 * 4 + 1


def test_more_registers_than_a_row_of_patches_are_no_patches() -> None:
    backbone = TimmFeatures(lambda **options: timm.create_model("test_vit", img_size=32, reg_tokens=12, **options), 32)
    assert backbone(torch.rand(1, 3, 32, 32)).shape == (1, 64, 2, 2)


def test_a_backbone_is_the_same_where_gradients_are_off() -> None:
    with torch.no_grad():
        without = build_backbone("test_convnext", SIZE).state_dict()
    with torch.inference_mode():
        inferring = build_backbone("test_convnext", SIZE).state_dict()
    assert build_backbone("test_convnext", SIZE).state_dict().keys() == without.keys() == inferring.keys()


@pytest.mark.parametrize(("method", "fields"), HEADS, ids=[name for name, _ in HEADS])
@pytest.mark.parametrize("name", ["convnext_atto", "test_vit"])
def test_maps_have_one_value_for_each_place_of_the_features(method: str, fields: dict[str, Any], name: str) -> None:
    found = get_method(method)
    recipe = found.recipe_type(backbone=name, image_size=SIZE, **fields)
    model = found.build_model(recipe, 3, "multilabel").eval()
    with torch.no_grad():
        maps = found.attention(model, torch.rand(2, 3, SIZE, SIZE), torch.tensor([0, 2]))
        grid = model.backbone(torch.rand(1, 3, SIZE, SIZE)).shape[2:]
    assert maps.shape == (2, 2, *grid)
    assert (maps >= 0).all()


@pytest.mark.parametrize(
    "name",
    ["test_vit", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vit_small_patch16_dinov3", SWIN))],
)
def test_weights_of_another_image_size_are_resampled_and_it_is_said(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole, backbone = whole_network(name, 224), build_backbone(name, SIZE)
    load_backbone(backbone, whole.state_dict(), Path("whole.pth"))
    sized = any(own.shape != whole.state_dict()[n].shape for n, own in backbone.model.state_dict().items())
    assert ("resampled" in caplog.text) == sized
    own = {f"backbone.{n}": value for n, value in build_backbone(name, 224).state_dict().items()}
    fitted = fit_resolution(backbone, own, "backbone.")
    backbone.load_state_dict({n.removeprefix("backbone."): value for n, value in fitted.items()})


def test_weights_of_another_network_are_refused_by_name() -> None:
    state: dict[str, Tensor] = whole_network("resnet10t").state_dict()
    for name in ("convnext_atto", "test_vit"):
        with pytest.raises(WeightsError, match="does not fit the model"):
            load_backbone(build_backbone(name, SIZE), state, Path("resnet.pth"))
