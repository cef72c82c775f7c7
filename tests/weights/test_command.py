"""`attnbias weights` and `attnbias list weights`: what a file holds, in words and as JSON; written again, it loads."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.models import ResNet18_Weights
from torchvision.models.segmentation import FCN_ResNet50_Weights

from attnbias.data.info import DatasetInfo, named
from attnbias.data.registry import DATASETS, known_class_names
from attnbias.methods.engine import inspection
from attnbias.methods.engine.load import load_run, weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.stored import PLAIN
from attnbias.weights.files import write_weights
from attnbias.weights.manifest import PUBLISHED
from tests.helpers.archive_server import serving
from tests.helpers.command_line import attnbias
from tests.parity.golden_case import Golden

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(autouse=True)
def cache(cache_root: Path) -> Path:
    return cache_root / "weights"


def authors_file(path: Path, golden: str, **beside: Any) -> Path:
    state = Golden.read(GOLDENS / f"{golden}.json.gz").state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, **beside}, path)
    return path


def our_file(path: Path, method: str, classes: int = 4, task: Any = "singlelabel", **fields: Any) -> torch.nn.Module:
    found = get_method(method)
    recipe = override(found.recipes["demo-single"].recipe, fields)
    torch.manual_seed(0)
    model = found.build_model(recipe, classes, task).eval()
    names = tuple(f"kind {position}" for position in range(classes))
    write_weights(path, model.state_dict(), weights_metadata(found, recipe, names, task))
    return model


# Listing --------------------------------------------------------------------------------------------------------------


def test_every_published_file_is_listed_with_its_link_and_licence(cache: Path) -> None:
    short = attnbias("list", "weights", expect=0).out
    long = attnbias("list", "weights", "--verbose", expect=0).out
    for name, entry in PUBLISHED.items():
        assert name in short
        for part in (entry.url, entry.licence, entry.refused or f"{entry.option} {name}"):
            assert part in long
        (line,) = (line for line in short.splitlines() if line.split()[:1] == [name])
        assert "on this disk" not in line
        assert line.rstrip().endswith("does not load") == (name in ("csra-coco-vitl", "csra-coco-vitl-v2"))
    form = PUBLISHED["csra-voc07-resnet101"]
    assert f"put at    {cache / form.name / form.file}" in long
    ours = attnbias("list", "weights", "lsas", expect=0).out
    assert "resnet50-v1" in ours
    assert "absvit-tiny" not in ours
    assert "did you mean 'lsas'" in attnbias("list", "weights", "lsa", expect=2).line


def test_fetching_what_only_a_browser_gets() -> None:
    line = attnbias("weights", "fetch", "csra-voc07-resnet101", expect=3).line
    assert PUBLISHED["csra-voc07-resnet101"].url in line
    assert re.search(r"put resnet101_voc07_head1_lam0\.1_94\.7\.pth \(170 MB\) at \S+94\.7\.pth", line)


def test_the_list_says_what_is_on_this_disk(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    here = {"csra-voc07-resnet101": PUBLISHED["csra-voc07-resnet101"].file, "resnet50-v2": "resnet50-11ad3fa6.pth"}
    for name, file in here.items():
        (cache / name).mkdir(parents=True)
        (cache / name / file).write_bytes(b"weights")
    hub = tmp_path / "hub" / "models--timm--vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    (hub / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (hub / "snapshots" / ("0" * 40) / "model.safetensors").write_bytes(b"weights")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0" * 40)
    rows = attnbias("list", "weights", expect=0).out.splitlines()
    found = {row.split()[0] for row in rows if row.rstrip().endswith("on this disk")}
    assert found == {*here, "vit_tiny_patch16_224.augreg_in21k_ft_in1k"}
    assert f"on disk   {cache / 'resnet50-v2' / 'resnet50-11ad3fa6.pth'}" in attnbias("list", "weights", "-v").out


# Inspecting -----------------------------------------------------------------------------------------------------------


def test_an_authors_file_is_told_apart(tmp_path: Path) -> None:
    path = authors_file(tmp_path / "w.pth.tar", "csra/fwd_r18_h2", epoch=7)
    shown = attnbias("weights", "inspect", path, expect=0).out
    assert "state_dict, module. stripped; 122 tensors" in shown
    assert "epoch 7" in shown
    assert "csra (multilabel): fits, 121 tensors matched" in shown
    found = json.loads(attnbias("weights", "inspect", path, "--json", expect=0).out)
    (method,) = found["methods"]
    assert method["method"] == "csra"
    assert (method["recipe"]["backbone"], method["recipe"]["num_heads"]) == ("resnet18", 2)
    assert method["missing"] == method["unexpected"] == method["misshapen"] == []
    assert len(method["classes"]) == 20
    assert "is not a checkpoint of 'ida'" in attnbias("weights", "inspect", path, "--method", "ida", expect=3).line


def test_a_file_is_the_published_one_by_its_bytes_not_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = authors_file(tmp_path / "w.pth", "csra/fwd_r18_h2")
    right = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    like = replace(PUBLISHED["resnet50-v2"], file="w.pth")
    listed = {"own": replace(like, name="own", digest=right), "other": replace(like, name="other", digest="0" * 8)}
    monkeypatch.setattr(inspection, "PUBLISHED", listed)
    assert "\nthe published: own\n" in attnbias("weights", "inspect", path, expect=0).out
    (tmp_path / "else.pth").write_bytes(path.read_bytes())
    assert "the published" not in attnbias("weights", "inspect", tmp_path / "else.pth", expect=0).out


def test_what_a_file_does_not_tell_can_be_said_as_in_val(tmp_path: Path) -> None:
    path = authors_file(tmp_path / "w.pth.tar", "csra/fwd_r18_h2", epoch=7)
    assumed = attnbias("weights", "inspect", path, expect=0).err
    assert "lam 0.1; say otherwise with --recipe, --image-size, --normalize, --lam" in assumed
    said = attnbias("weights", "inspect", path, "--recipe", "coco-resnet101", "--lam", 0.7, "--json", expect=0)
    assert "lam" not in said.err.partition("assumed")[2]
    assert json.loads(said.out)["methods"][0]["recipe"]["lam"] == 0.7
    assert "no such option --samples" in attnbias("weights", "inspect", path, "--samples", 4, expect=2).line


def test_our_file_says_what_it_is(tmp_path: Path) -> None:
    our_file(tmp_path / "w.safetensors", "lsas")
    found = json.loads(attnbias("weights", "inspect", tmp_path / "w.safetensors", "--json", expect=0).out)
    assert found["methods"][0]["method"] == "lsas"
    assert found["methods"][0]["classes"] == [f"kind {position}" for position in range(4)]
    assert found["layout"] == "safetensors, bare state dict"


def test_a_backbone_is_no_model_of_a_method(tmp_path: Path) -> None:
    torch.save(timm.create_model("swin_tiny_patch4_window7_224").state_dict(), tmp_path / "swin.pth")
    assert "as a backbone: attnbias train METHOD" in attnbias("weights", "inspect", tmp_path / "swin.pth", expect=0).out
    line = attnbias("weights", "convert", tmp_path / "swin.pth", "--to", tmp_path / "o.safetensors", expect=2).line
    assert "are of no method; see: attnbias weights inspect" in line
    assert not (tmp_path / "o.safetensors").exists()


def test_a_url_is_inspected_like_a_path(tmp_path: Path) -> None:
    our_file(tmp_path / "w.safetensors", "csra")
    with serving() as server:
        server.files["w.safetensors"] = (tmp_path / "w.safetensors").read_bytes()
        shown = attnbias("weights", "inspect", server.url + "w.safetensors", expect=0).out
    assert "csra (singlelabel): fits" in shown


# Converting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "golden"),
    [
        ("csra", "csra/fwd_r18_h2"),
        ("lsas", "lsas/fwd_cifar_lsas_d29_order2"),
        ("absvit", "absvit/forward_absvit_tiny_p16_224"),
    ],
)
def test_a_converted_file_loads_with_no_flags_and_says_the_same(method: str, golden: str, tmp_path: Path) -> None:
    path, ours = authors_file(tmp_path / "w.pth", golden), tmp_path / "ours.safetensors"
    assert str(ours) in attnbias("weights", "convert", path, "--to", ours, expect=0).out
    before, after = load_run(method, str(path), {}), load_run(method, str(ours), {})
    assert (after.recipe, after.classes, after.task) == (before.recipe, before.classes, before.task)
    images = torch.randn(1, 3, before.recipe.image_size, before.recipe.image_size)
    with torch.no_grad():
        assert torch.equal(after.model(images), before.model(images))
    assert (
        "exists; choose another name or add --overwrite"
        in attnbias("weights", "convert", path, "--to", ours, expect=2).line
    )


def test_what_we_write_tells_how_images_are_prepared(tmp_path: Path) -> None:
    our_file(tmp_path / "w.safetensors", "llb", image_size=64, normalize="half")
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        said = json.loads(file.metadata()["attnbias"])
    assert said["preprocessing"]["image_size"] == 64
    assert said["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert any(step.startswith("CenterCrop(size=(64, 64)") for step in said["preprocessing"]["steps"])
    assert said["classes"][0] == "kind 0"


@pytest.mark.parametrize(
    ("method", "fields", "name", "options"),
    [
        ("csra", {"backbone": "resnet18"}, "resnet18", {"num_classes": 0}),
        ("csra", {"backbone": "vit_tiny_patch16_224"}, "vit_tiny_patch16_224", {"num_classes": 0, "img_size": 64}),
        (
            "ida",
            {"backbone": "swin_tiny_patch4_window7_224"},
            "swin_tiny_patch4_window7_224",
            {"num_classes": 0, "img_size": 64},
        ),
        ("llb", {"size": "tiny"}, "vit_tiny_patch16_224", {"num_classes": 4, "img_size": 64}),
        (
            "absvit",
            {"architecture": "tiny_patch16", "top_down": False},
            "vit_tiny_patch16_224",
            {"num_classes": 4, "img_size": 64},
        ),
        ("plain", {"backbone": "test_convnext"}, "test_convnext", {"num_classes": 4}),
    ],
    ids=["csra resnet", "csra vit", "ida swin", "llb", "absvit's vit", "plain"],
)
def test_plain_weights_load_strictly_in_timm(
    method: str, fields: dict[str, Any], name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    our_file(tmp_path / "w.safetensors", method, image_size=64, **fields)
    plain = tmp_path / "plain.safetensors"
    attnbias("weights", "convert", tmp_path / "w.safetensors", "--to", plain, "--to-plain", expect=0)
    timm.create_model(name, **options).load_state_dict(load_file(plain))  # strict
    with safe_open(plain, framework="pt") as file:
        told = json.loads(file.metadata()[PLAIN])
    assert told["preprocessing"]["image_size"] == 64


@pytest.mark.parametrize(
    ("backbone", "without"),
    [
        ("test_convnext", "head.norm"),
        ("test_vit4", "fc_norm"),
        ("test_byobnet", ""),
    ],
)
def test_what_was_taken_out_of_a_backbone_is_said_beside_its_plain_weights(
    backbone: str, without: str, tmp_path: Path
) -> None:
    our_file(tmp_path / "w.safetensors", "csra", image_size=160, backbone=backbone)
    plain = tmp_path / "plain.safetensors"
    said = attnbias("weights", "convert", tmp_path / "w.safetensors", "--to", plain, "--to-plain", expect=0).out
    state = load_file(plain)
    call = re.search(r"timm\.create_model\(.*?\)", said)
    assert call is not None
    network = eval(call[0], {"timm": timm})
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert sorted({name.rpartition(".")[0] for name in missing}) == ([without] if without else [])
    assert (f"without {without}" in said and "strict=False" in said) == bool(without)
    with torch.no_grad():
        images = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
        features = load_run("csra", str(tmp_path / "w.safetensors"), {}).model.get_submodule("backbone.model")
        assert torch.equal(network.eval().forward_features(images), features.forward_features(images))


@pytest.mark.parametrize("method", ["lsas", "absvit"])
def test_a_network_of_its_own_has_no_plain_part(method: str, tmp_path: Path) -> None:
    our_file(tmp_path / "w.safetensors", method)
    plain = tmp_path / "plain.safetensors"
    line = attnbias("weights", "convert", tmp_path / "w.safetensors", "--to", plain, "--to-plain", expect=2).line
    assert f"no part of this '{method}' model is timm's or torchvision's" in line
    assert not plain.exists()


# Names of classes -----------------------------------------------------------------------------------------------------


def test_classes_of_published_files_are_named_where_their_set_is_not_prepared(tmp_path: Path) -> None:
    path = authors_file(tmp_path / "w.pth", "csra/fwd_r18_h2")
    shown = attnbias("weights", "inspect", path, expect=0).out
    assert "20 classes: aeroplane, bicycle, bird, boat, bottle" in shown


def test_names_of_coco_are_those_of_its_annotations(coco_source: Path) -> None:
    (file,) = (coco_source / "annotations").glob("*.json")
    categories = sorted(json.loads(file.read_text())["categories"], key=lambda category: category["id"])
    assert known_class_names("coco") == tuple(category["name"] for category in categories)


def test_names_of_voc_and_imagenet_are_in_the_order_of_torchvisions_weights() -> None:
    assert known_class_names("voc07") == tuple(FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"][1:])
    theirs = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    ours = known_class_names("imagenet")
    assert len(ours) == len(theirs)
    differ = [(own, other) for own, other in zip(ours, theirs, strict=True) if own != other]
    assert differ == [(own, other) for own, other in differ if own.startswith(("crane (n", "maillot (n"))]
    assert all(other.startswith(own.split(" (")[0]) for own, other in differ)  # two classes each of one name


@pytest.mark.parametrize("info", DATASETS.values(), ids=DATASETS)
def test_what_the_catalogue_names_is_there_and_every_class_has_a_name_of_its_own(info: DatasetInfo) -> None:
    assert all(callable(named(name)) for name in (info.prepare, info.further_files, info.class_names) if name)
    names = known_class_names(info.name)
    assert bool(names) == bool(info.class_names)
    assert not names or len(set(names)) == len(names) == info.classes


@pytest.mark.parametrize("info", DATASETS.values(), ids=DATASETS)
def test_every_published_set_says_whom_to_cite(info: DatasetInfo) -> None:
    cited = re.fullmatch(r"[A-Z].+: .+, .+ (19|20)\d\d", info.citation)
    assert bool(cited) == (info.acquisition != "generated"), info.citation
