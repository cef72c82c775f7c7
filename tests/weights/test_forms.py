"""Every form that weights are published in is read: wrappers of every method's layout, every family of backbones.

And nothing else is: no damaged or hostile file runs code, and none is loaded in part.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attnbias.methods.engine.inspection import inspect_weights
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import InspectRequest
from attnbias.methods.engine.training.starting_weights import initial_weights
from attnbias.methods.llb.model import LLB
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import load_strict, read_checkpoint, write_weights
from tests.helpers.command_line import attnbias
from tests.parity.golden_case import Golden

GOLDENS = Path(__file__).parents[1] / "goldens"
State = dict[str, Tensor]


def of_layout(golden: str) -> State:
    """The names and shapes of a golden's weights; each tensor holds one number, its own."""
    layout = Golden.read(GOLDENS / f"{golden}.json.gz").layout
    return {
        name: torch.tensor(position, dtype=getattr(torch, dtype)).expand(shape)  # one value on disk, whatever the shape
        for position, (name, (shape, dtype)) in enumerate(layout.items())
    }


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def training(state: State) -> dict[str, Any]:
    """What training programs keep beside the weights."""
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"epoch": 7, "arch": "x", "optimizer": optimizer, "scaler": {}, "best_acc": np.float64(81.5), **state}


FORMS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "bare, parallel": lambda s: under("module.", s),
    "compiled": lambda s: under("_orig_mod.", s),
    "state_dict": lambda s: {"state_dict": s},
    "model": lambda s: {"model": s},
    "training, parallel": lambda s: training({"state_dict": under("module.", s)}),
    "Lightning with a loss and an average": lambda s: training(
        {"state_dict": under("model.", s) | {"criterion.weight": torch.ones(2)} | under("average_model.module.", s)}
    ),
    "training with arguments and an average": lambda s: training(
        {"model": s, "model_ema": under("module.", s), "args": argparse.Namespace(lr=0.1, model="x")}
    ),
}

FILES = {
    "csra/fwd_r18_h2": ("csra", {"backbone": "resnet18", "num_heads": 2}, 20),
    "csra/fwd_vitb_h1_wider": ("csra", {"backbone": "vit_b16", "num_heads": 1}, 14),
    "ida/full_r101_c80_linear": ("ida", {"backbone": "resnet101", "classifier": "linear"}, 80),
    "ida/full_r101_c80_h4_heavy": ("ida", {"backbone": "resnet101", "samples": 4, "heavy": True}, 80),
    "ida/full_swinb384_c80_h4_heavy": ("ida", {"backbone": "swin_base_patch4_window12_384"}, 80),
    "lsas/fwd_cifar_lsas_d29_order2": ("lsas", {"network": "cifar", "depth": 29, "order": 2}, 10),
    "lsas/fwd_imagenet_lsas_r18": ("lsas", {"network": "imagenet", "depth": 18, "order": 1}, 1000),
    "llb/fwd_vit_base_readme": ("llb", {"size": "base", "objects": 2048}, 1000),
    "llb/fwd_mae_base_places": ("llb", {"size": "base", "family": "mae"}, 365),
    "llb/fwd_swag_base_fixed": ("llb", {"size": "base", "image_size": 384}, 365),
    "absvit/forward_absvit_tiny_p16_224": ("absvit", {"architecture": "tiny_patch16", "top_down": True}, 1000),
    "absvit/forward_vit_tiny_p16_64": ("absvit", {"architecture": "tiny_patch16", "top_down": False}, 1000),
}


FIRST = {golden.partition("/")[0]: golden for golden in reversed(FILES)}
"""Method -> the file that comes in every wrapper; its others come in the first one."""


@pytest.mark.parametrize("golden", FILES)
def test_every_wrapper_of_every_method_is_read_and_recognised(golden: str, tmp_path: Path) -> None:
    method, fields, classes = FILES[golden]
    state = of_layout(golden)
    forms = FORMS if golden in FIRST.values() else dict([*FORMS.items()][:1])
    for name, wrap in forms.items():
        for zipped in (True, False):
            path = tmp_path / "w.pth.tar"
            torch.save(wrap(state), path, _use_new_zipfile_serialization=zipped)
            read = read_checkpoint(path)
            assert list(read.state) == list(state), name
            assert all(
                value.shape == state[n].shape and value.flatten()[0] == state[n].flatten()[0]
                for n, value in read.state.items()
            )
            assert (read.ema is not None) == ("average" in name)
    found = inspect_weights(InspectRequest(load_from=str(path))).fits
    assert [fit.described.method.name for fit in found] == [method]
    assert found[0].match, str(found[0].match)
    recipe = found[0].described.recipe.model_dump()
    assert {field: recipe[field] for field in fields} == fields
    assert len(found[0].described.classes) == classes


def test_what_lacks_is_too_much_or_has_another_shape_is_listed(tmp_path: Path) -> None:
    state = of_layout("csra/fwd_r18_h2")
    del state["layer2.0.conv1.weight"]
    state["layer3.0.conv1.weight"] = torch.zeros(1).expand(2, 3)
    state["more"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    (fit,) = inspect_weights(InspectRequest(load_from=str(tmp_path / "w.pth"))).fits
    assert fit.match.missing == ("backbone.layer2.0.conv1.weight",)
    assert fit.match.unexpected == ("backbone.more",)
    assert fit.match.misshapen == ("backbone.layer3.0.conv1.weight (file 2x3, model 256x128x3x3)",)
    assert fit.matched == 121 - 2


# Backbones ------------------------------------------------------------------------------------------------------------


def start(method: str, tmp_path: Path, content: Any, **fields: Any) -> nn.Module:
    """A fresh model of a method whose backbone starts from a file."""
    found = get_method(method)
    recipe = found.recipes["demo"].recipe.model_copy(update=fields)
    model = found.build_model(recipe, 5, "singlelabel").eval()
    path = tmp_path / "backbone.pth"
    torch.save(content, path)
    initial_weights(
        found,
        model,
        recipe,
        load_from=None,
        backbone_weights=str(path),
        reset_head=False,
        trust=False,
        classes=(),
        task="multilabel",
    )
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


RESNETS: dict[str, Callable[[State], Any]] = {
    "torchvision": lambda s: s,
    "first container": lambda s: {n: v for n, v in s.items() if not n.endswith("num_batches_tracked")},
    "CutMix": lambda s: {"epoch": 3, "arch": "resnet", "state_dict": under("module.", s)},
}


@pytest.mark.parametrize("form", RESNETS)
def test_resnets(form: str, tmp_path: Path, images: Tensor) -> None:
    network = torchvision.models.resnet18().eval()
    content = RESNETS[form](network.state_dict())
    expected = nn.Sequential(*list(network.children())[:-2])(images)
    for method in ("csra", "ida"):
        model = start(method, tmp_path, content, backbone="resnet18", image_size=64)
        assert torch.equal(model.get_submodule("backbone")(images), expected)
    block = {"network": "imagenet", "block": "basic", "depth": 18, "stages": (4,), "image_size": 64}
    lsas: Any = start("lsas", tmp_path, content, **block)
    assert torch.equal(lsas.layer3[1].conv2.weight, network.layer3[1].conv2.weight)


def test_vision_transformers_of_timm(tmp_path: Path) -> None:
    network = timm.create_model("vit_tiny_patch16_224", img_size=64).eval()
    model: Any = start("csra", tmp_path, network.state_dict(), backbone="vit_tiny_patch16_224", image_size=64)
    state = model.backbone.model.state_dict()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())


def test_swin_of_its_authors(tmp_path: Path) -> None:
    network = timm.create_model("swin_tiny_patch4_window7_224", img_size=64).eval()
    published = {}
    for name, value in network.state_dict().items():
        parts = name.split(".")
        if "downsample" in parts:  # the authors keep merging at the end of a stage, timm at the start of the next
            parts[1] = str(int(parts[1]) - 1)
        published[".".join(parts)] = value
    published["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    model: Any = start(
        "ida", tmp_path, {"model": published}, backbone="swin_tiny_patch4_window7_224", image_size=64, samples=4
    )
    state = model.backbone.model.state_dict()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())


def test_deit(tmp_path: Path) -> None:
    network = timm.create_model("deit_tiny_patch16_224").eval()
    fields = {"architecture": "tiny_patch16", "image_size": 224, "top_down": False}
    model: Any = start("absvit", tmp_path, {"model": network.state_dict()}, **fields)
    assert torch.equal(model.blocks[11].attn.qkv.weight, network.blocks[11].attn.qkv.weight)


def to_flax(state: State, heads: int) -> dict[str, np.ndarray]:
    """timm's names of a vision transformer -> the arrays that a JAX program saves."""
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    width = state["cls_token"].shape[-1]
    for block in range(sum(name.endswith("qkv.weight") for name in state)):
        inner, place = f"blocks.{block}.", f"Transformer/encoderblock_{block}/"
        attention = place + "MultiHeadDotProductAttention_1/"
        for flax, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            arrays[f"{place}{flax}/scale"] = state[f"{inner}{ours}.weight"]
            arrays[f"{place}{flax}/bias"] = state[f"{inner}{ours}.bias"]
        for number, ours in enumerate(("fc1", "fc2")):
            arrays[f"{place}MlpBlock_3/Dense_{number}/kernel"] = state[f"{inner}mlp.{ours}.weight"].T
            arrays[f"{place}MlpBlock_3/Dense_{number}/bias"] = state[f"{inner}mlp.{ours}.bias"]
        weights, biases = state[f"{inner}attn.qkv.weight"].chunk(3), state[f"{inner}attn.qkv.bias"].chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{attention}{part}/kernel"] = weight.T.reshape(width, heads, -1)
            arrays[f"{attention}{part}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = state[f"{inner}attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = state[f"{inner}attn.proj.bias"]
    return {name: value.detach().numpy() for name, value in arrays.items()}


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_arrays_of_jax(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = VisionTransformer(64, 16, num_classes=5, embed_dim=96, depth=2, num_heads=3)
    arrays = to_flax(network.state_dict(), 3)
    path = tmp_path / "w.npz"
    np.savez(path, **{prefix + name: value for name, value in arrays.items()})
    read = read_checkpoint(path)
    assert read.layout == "npz, bare state dict"
    assert read.state.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in read.state.items())
    twin = VisionTransformer(64, 16, num_classes=5, embed_dim=96, depth=2, num_heads=3)
    twin.load_pretrained(str(path), prefix)  # timm's own reader agrees
    assert all(torch.equal(value, read.state[name]) for name, value in twin.state_dict().items())
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(WeightsError, match=r"w\.npz is (empty|damaged)"):
            read_checkpoint(path)


def test_arrays_of_objects_are_pickles_and_do_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    np.savez(tmp_path / "w.npz", cls=np.array([Touch(mark, "system")], dtype=object))
    with pytest.raises(WeightsError, match=r"no \.npz file of arrays"):
        read_checkpoint(tmp_path / "w.npz")
    assert not mark.exists()


def to_swag(state: State) -> State:
    """torchvision's names of its port -> those of SWAG's own files."""
    renamed = {
        name.replace("encoder_layer_", "layer_")
        .replace(".mlp.0.", ".mlp.linear_1.")
        .replace(".mlp.3.", ".mlp.linear_2.")
        .replace("heads.head.", "head.layers.head."): value
        for name, value in state.items()
    }
    return {**renamed, "encoder.pos_embedding": renamed["encoder.pos_embedding"].transpose(0, 1)}


@pytest.mark.parametrize("family", ["vit", "mae", "swag", "swag (torchvision)"])
def test_families_of_llb(family: str, tmp_path: Path, images: Tensor) -> None:
    torch.manual_seed(0)
    network: nn.Module
    if family.startswith("swag"):
        network = torchvision.models.VisionTransformer(64, 16, 12, 3, 192, 768, num_classes=5).eval()
        nn.init.normal_(network.heads.head.weight)  # type: ignore[union-attr, arg-type]
        # Its own epsilon is 1e-6, as the SWAG programs have it.
        content = network.state_dict() if family != "swag" else to_swag(network.state_dict())
    else:
        pool = {"vit": "token", "mae": "avg"}[family]
        network = VisionTransformer(64, 16, num_classes=5, global_pool=pool, embed_dim=192, num_heads=3).eval()
        content = {"model": network.state_dict()} if family == "mae" else network.state_dict()
    model = start("llb", tmp_path, content, family=family.split()[0], size="tiny", image_size=64, target_layer=11)
    assert isinstance(model, LLB)
    with torch.no_grad():
        visual = model.finish(model.tokens(images, model.tapped_block))
        assert torch.allclose(visual, network(images), atol=1e-5)


# Damaged and hostile --------------------------------------------------------------------------------------------------


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A good file of each container."""
    folder = tmp_path_factory.mktemp("whole")
    content = training({"model": small().state_dict(), "args": argparse.Namespace(lr=0.1)})
    torch.save(content, folder / "zip.pth")
    torch.save(content, folder / "old.pth", _use_new_zipfile_serialization=False)
    write_weights(folder / "safe.safetensors", small().state_dict(), {"a": "b"})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["zip.pth", "old.pth", "safe.safetensors"]),
    edits=st.lists(
        st.tuples(
            st.sampled_from(["flip", "cut", "insert", "drop"]), st.floats(0, 1), st.binary(min_size=1, max_size=9)
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_fuzzed_files_are_refused_or_loaded_whole(
    name: str, edits: list[tuple[str, float, bytes]], whole: dict[str, bytes], tmp_path: Path
) -> None:
    content = bytearray(whole[name])
    for kind, share, extra in edits:
        position = int(share * max(len(content) - 1, 0))
        if kind == "flip" and content:
            content[position] ^= extra[0]
        elif kind == "cut":
            del content[position:]
        elif kind == "insert":
            content[position:position] = extra
        else:
            del content[position : position + len(extra)]
    path = tmp_path / name
    path.write_bytes(bytes(content))
    model = small()
    before = {n: value.clone() for n, value in model.state_dict().items()}
    refused = None
    try:
        state = read_checkpoint(path).state
        load_strict(model, state, path)
    except WeightsError as error:
        refused = str(error)
    after = model.state_dict()
    if refused is not None:
        assert "\n" not in refused
        assert all(torch.equal(after[n], value) for n, value in before.items())
    else:
        loaded = {n for n in before if n in state and _same(after[n], state[n])}
        assert set(before) - loaded <= {"1.num_batches_tracked"}


def _same(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left, right.to(left.dtype)) or bool(left.isnan().any())


class Touch:
    """Unpickling this makes a file, if it is allowed to."""

    def __init__(self, mark: Path, by: str) -> None:
        self.mark, self.by = mark, by

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return {
            "system": (os.system, (f"touch {self.mark}",)),
            "eval": (eval, (f"open({str(self.mark)!r}, 'w')",)),
            "path": (Path.touch, (self.mark,)),
        }[self.by]


hostile = st.recursive(
    st.sampled_from(["HOSTILE", 1, None, "text"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["model", "state_dict", "args", "x"]), inner, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=hostile, by=st.sampled_from(["system", "eval", "path"]), protocol=st.integers(2, 5), raw=st.booleans())
def test_no_file_runs_code_wherever_it_hides(tree: Any, by: str, protocol: int, raw: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    def grow(node: Any) -> Any:
        if node == "HOSTILE":
            return Touch(mark, by)
        if isinstance(node, dict):
            return {name: grow(value) for name, value in node.items()}
        return type(node)(map(grow, node)) if isinstance(node, list | tuple) else node

    content = {"state_dict": {"w": torch.zeros(2)}, "more": grow(tree), "args": argparse.Namespace(x=Touch(mark, by))}
    path = tmp_path / "w.pth"
    if raw:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol)
    with pytest.raises(WeightsError):
        read_checkpoint(path)
    assert not mark.exists()


def test_what_a_published_file_does_not_tell_is_said_by_whoever_assumes_it(tmp_path: Path) -> None:
    recipe = get_method("csra").recipes["demo"].recipe.model_copy(update={"backbone": "resnet18"})
    model = get_method("csra").build_model(recipe, 10, "multilabel")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    source = ("--load-from", tmp_path / "w.pth")
    for command in (
        ("predict", "--method", "csra", *source, tmp_path / "a.png", "--gpus", 0),
        ("visualize", "csra", *source, tmp_path / "a.png", "--out", tmp_path / "out"),
        ("weights", "convert", tmp_path / "w.pth", "--method", "csra", "--to", tmp_path / "w.safetensors"),
        ("weights", "inspect", tmp_path / "w.pth"),
    ):
        said = " ".join(attnbias(*command, expect=0).err.split())
        as_in = r"as in recipe '[\w-]+' \(multilabel, of [\w-]+\)"
        assumed = rf"w\.pth does not tell all; assumed {as_in}: image_size \d+, normalize \w+, lam [\d.]+; say"
        assert re.search(assumed, said), said
    assert "assumed" not in attnbias("weights", "inspect", tmp_path / "w.safetensors", expect=0).err


def test_mistakes_of_a_method_are_not_called_wrong_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    method = get_method("csra")
    for mistake in (AttributeError, NameError, TypeError, AssertionError):

        def infer(state: object, mistake: type[Exception] = mistake) -> dict[str, Any]:
            raise mistake("a bug")

        monkeypatch.setattr(method, "infer", infer)
        with pytest.raises(mistake):
            load_run("csra", str(tmp_path / "w.pth"), {})


def test_heads_that_no_published_program_has_are_refused_and_not_called_anothers(tmp_path: Path) -> None:
    """As in the published ViT-L files for COCO: head1 to head8 with biases, and head."""
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=20)
    heads = {f"head{k}.{part}": getattr(vit.head, part).detach() for k in range(1, 9) for part in ("weight", "bias")}
    torch.save({**vit.state_dict(), **heads}, tmp_path / "vitl.pth")
    said = attnbias("val", "csra", "--load-from", tmp_path / "vitl.pth", expect=3).err
    assert "heads head1 to head8 are not those of CSRA's published program" in said
    assert "looks like" not in said


def test_another_method_is_named_only_where_it_takes_the_file(tmp_path: Path) -> None:
    """A wrong hint is worse than none: a ViT of some other program has the names of AbSViT's, and more."""
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=20).state_dict()
    torch.save({**vit, "reg_token": torch.zeros(1, 4, 192)}, tmp_path / "other.pth")
    torch.save(vit, tmp_path / "vit.pth")
    hint = "; it is one of 'absvit': attnbias val absvit --load-from"
    assert hint not in attnbias("val", "ida", "--load-from", tmp_path / "other.pth", expect=3).line
    assert hint in attnbias("val", "ida", "--load-from", tmp_path / "vit.pth", expect=3).line
    inspected = attnbias("weights", "inspect", tmp_path / "vit.pth", expect=0).out
    assert "absvit (singlelabel): fits" in inspected
