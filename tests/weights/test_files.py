"""Weight files: every published layout is read, nothing else is, no pickle runs code, an old file survives."""

from __future__ import annotations

import argparse
import os
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnbias.weights.errors import WeightsError
from attnbias.weights.files import load_strict, match_state, read_checkpoint, write_weights


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"head.weight": torch.randn(20, 30, generator=generator), "head.bias": torch.randn(20, generator=generator)}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(
    ("wrap", "layout"),
    [
        (lambda w: w, "bare state dict"),
        (lambda w: {"model": w, "optimizer": {"state": {}}}, "model"),
        (lambda w: {"epoch": 3, "state_dict": prefixed("module.", w)}, "state_dict, module. stripped"),
        (lambda w: {"model": prefixed("_orig_mod.module.", w)}, "model, _orig_mod.module. stripped"),
        (lambda w: {"model": {"state_dict": w}}, "state_dict"),
    ],
)
def test_layouts_are_recognised(tmp_path: Path, wrap: Any, layout: str, zipped: bool) -> None:
    path = tmp_path / "w.pth.tar"
    torch.save(wrap(weights()), path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)
    assert same(read.state, weights())
    assert read.layout == layout


def test_a_prefix_that_only_some_names_have_belongs_to_the_names(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save(state, tmp_path / "w.pth")
    assert same(read_checkpoint(tmp_path / "w.pth").state, state)


def test_training_dictionary_of_the_papers_programs(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    args = argparse.Namespace(lr=6.25e-5, model="vit", betas=[0.9, 0.99], seed=np.int64(3))
    content = {
        "model": weights(0),
        "model_ema": prefixed("module.", weights(1)),
        "epoch": 7,
        "best": np.float64(81.5),
        "args": args,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}},
    }
    torch.save(content, path)
    read = read_checkpoint(path)
    assert same(read.state, weights(0))
    assert read.ema is not None
    assert same(read.ema, weights(1))
    assert same(read_checkpoint(path, entry="ema").state, weights(1))
    assert read.extra["epoch"] == 7
    assert read.extra["best"] == 81.5
    assert read.extra["args"] == {"lr": 6.25e-5, "model": "vit", "betas": [0.9, 0.99], "seed": 3}


def test_asking_for_an_average_that_is_not_there(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds only model weights, expected ema"):
        read_checkpoint(tmp_path / "w.pth", entry="ema")


@pytest.mark.parametrize("prefix", ["", "module.", "module.module.", "_orig_mod.module."])
@pytest.mark.parametrize("name", ["averaged_model", "model_ema", "state_dict_ema", "state_dict", "model"])
def test_a_file_that_holds_nothing_but_an_average_is_read(name: str, prefix: str, tmp_path: Path) -> None:
    """As torch's AveragedModel leaves it, beside its counter; parallel or compiled inside of it, or around it."""
    average = {"n_averaged": torch.tensor(7), **prefixed(prefix, weights(1))}
    torch.save({name: average, "epoch": 3}, tmp_path / "w.pth")
    read = read_checkpoint(tmp_path / "w.pth")
    assert same(read.state, weights(1))
    assert read.layout.startswith(name)
    assert read.extra["epoch"] == 3


class Command:
    """Unpickling this runs a shell command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_a_hostile_pickle_does_not_run(tmp_path: Path, zipped: bool, protocol: int) -> None:
    path, mark = tmp_path / "w.pth", tmp_path / "ran"
    content = {"model": weights(), "more": Command(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    with pytest.raises(WeightsError) as raised:
        read_checkpoint(path)
    assert not mark.exists()
    assert "\n" not in str(raised.value)
    if protocol == 2:
        assert "posix.system" in str(raised.value)
        assert "--trust-checkpoint" in str(raised.value)


def test_trust_lifts_the_refusal(tmp_path: Path) -> None:
    torch.save(nn.Linear(30, 20), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"Linear.*--trust-checkpoint"):
        read_checkpoint(tmp_path / "w.pth")
    assert list(read_checkpoint(tmp_path / "w.pth", trust=True).state) == ["weight", "bias"]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for name in ("zip.pth", "old.pth", "safe.safetensors"):
        whole, cut = tmp_path / name, tmp_path / f"cut-{name}"
        if name == "safe.safetensors":
            write_weights(whole, weights(), {})
        else:
            torch.save({"model": weights()}, whole, _use_new_zipfile_serialization=name == "zip.pth")
        content = whole.read_bytes()
        for size in {*range(0, len(content), 97), len(content) - 1}:
            cut.write_bytes(content[:size])
            with pytest.raises(WeightsError) as raised:
                read_checkpoint(cut)
            assert str(cut) in str(raised.value)
            assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Sign in to download", "web page"),
        (b"not a checkpoint\n" * 9, "no checkpoint"),
        (bytes(range(256)) * 20, "no checkpoint"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        read_checkpoint(path)


def test_other_content_is_named(tmp_path: Path) -> None:
    torch.save({"optimizer": {}, "step": 3}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"no state dict \(top level: optimizer, step\)"):
        read_checkpoint(tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match=r"(no|not a) checkpoint"):
        read_checkpoint(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="no weight file"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="folder"):
        read_checkpoint(tmp_path)


def test_written_weights_come_back(tmp_path: Path) -> None:
    shared = torch.arange(12.0).reshape(3, 4)
    state = {
        "a": shared,
        "tied": shared,
        "transposed": shared.T,
        "row": shared[1],
        "half": shared.bfloat16(),
        "count": torch.tensor(3),
    }
    path = tmp_path / "new" / "w.safetensors"
    write_weights(path, state, {"classes": '["a"]'})
    read = read_checkpoint(path)
    assert read.metadata == {"classes": '["a"]'}
    assert all(
        torch.equal(read.state[name], value) and read.state[name].dtype == value.dtype for name, value in state.items()
    )
    assert set(read.state) == set(state)
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, weights(1), {"epoch": "1"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # the kernel now refuses to write more, as a full disk does
    try:
        with pytest.raises(WeightsError, match=r"cannot write .*w\.safetensors \(400,080 bytes"):
            write_weights(path, {"big": torch.zeros(100_020)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(read_checkpoint(path).state, dict(sorted(weights(1).items())))
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_strict_loading_lists_all_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in before.items() if name != "0.bias"}
    state["0.weight"] = torch.zeros(2, 4)
    state |= {f"more.{i}": torch.zeros(1) for i in range(13)}
    with pytest.raises(WeightsError) as raised:
        load_strict(model, state, Path("w.pth"))
    message = str(raised.value)
    assert "w.pth" in message
    assert "1 missing: 0.bias" in message
    assert "13 unexpected: more.0" in message
    assert "more.9 ..." in message
    assert "more.10" not in message
    assert "1 misshapen: 0.weight (file 2x4, model 3x4)" in message
    assert same(dict(model.state_dict()), before)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.bool])
def test_whole_numbers_are_no_weights_of_real_ones(kind: torch.dtype) -> None:
    """Somebody has rounded them; the model would answer, and otherwise than it did."""
    model = nn.Linear(2, 2)
    state = {name: value.to(kind) for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"2 misshapen: weight \(file .*, model float32\)"):
        load_strict(model, state, Path("w.pth"))


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float16, torch.float64])
def test_real_numbers_of_another_precision_load(kind: torch.dtype) -> None:
    model = nn.Linear(2, 2)
    state = {name: torch.full_like(value, 0.5).to(kind) for name, value in model.state_dict().items()}
    load_strict(model, state, Path("w.pth"))
    assert model.weight.eq(0.5).all()
    state["weight"] = torch.full((2, 2), float("nan")).to(kind)
    with pytest.raises(WeightsError, match="NaN or infinite, in 1 of 2 tensors: weight"):
        load_strict(model, state, Path("w.pth"))


def test_files_without_batch_counters_load() -> None:
    model = nn.BatchNorm2d(3)
    state = {name: value + 1 for name, value in model.state_dict().items() if name != "num_batches_tracked"}
    assert match_state(model.state_dict(), state)
    load_strict(model, state, Path("resnet101-5d3b4d8f.pth"))
    assert torch.equal(model.running_mean, torch.ones(3))


@pytest.mark.parametrize(
    ("wrap", "layout"),
    [
        (lambda s: {f"_orig_mod.module.{n}": v for n, v in s.items()}, "_orig_mod.module. stripped"),
        (lambda s: {"n_averaged": torch.tensor(3)} | {f"module.{n}": v for n, v in s.items()}, "n_averaged module."),
        (
            lambda s: {"module.n_averaged": torch.tensor(3)} | {f"module.module.{n}": v for n, v in s.items()},
            "n_averaged module.module.",
        ),
        (lambda s: {"state_dict": {f"model.{n}": v for n, v in s.items()}, "epoch": 3}, "state_dict, model. stripped"),
        (
            lambda s: {"state_dict": {f"model.{n}": v for n, v in s.items()} | {"criterion.weight": torch.ones(2)}},
            "state_dict, model. stripped",
        ),
        (
            lambda s: {
                "state_dict": {f"net.{n}": v for n, v in s.items()} | {"val_loss.bce.pos_weight": torch.ones(2)}
            },
            "state_dict, net. stripped",
        ),
        (lambda s: {"loss_fn.weight": torch.ones(2), "train_metrics.total": torch.ones(1), **s}, "bare state dict"),
        (lambda s: {"state_dict": {f"net._orig_mod.{n}": v for n, v in s.items()}}, "net._orig_mod. stripped"),
    ],
)
def test_what_wraps_a_model_is_taken_off(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any], layout: str) -> None:
    state = {"fc.weight": torch.rand(2, 3), "model.bias": torch.rand(2)}
    torch.save(wrap(state), tmp_path / "w.pth")
    read = read_checkpoint(tmp_path / "w.pth")
    assert read.state.keys() == state.keys()
    assert layout in read.layout


def test_an_average_beside_the_weights_is_taken_out_of_its_wrapper(tmp_path: Path) -> None:
    state = {"fc.weight": torch.rand(2, 3)}
    average = {"n_averaged": torch.tensor(3), "module.fc.weight": torch.ones(2, 3)}
    torch.save({"model": {"module.fc.weight": state["fc.weight"]}, "averaged_model": average}, tmp_path / "w.pth")
    assert torch.equal(read_checkpoint(tmp_path / "w.pth", entry="ema").state["fc.weight"], torch.ones(2, 3))
    assert torch.equal(read_checkpoint(tmp_path / "w.pth").state["fc.weight"], state["fc.weight"])


@pytest.mark.parametrize("name", ["average_model", "averaged_model", "ema", "ema_model", "model_ema", "swa_model"])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_an_average_under_its_own_names_in_a_lightning_file(tmp_path: Path, name: str, wrapper: str) -> None:
    raw = {"model.fc.weight": torch.rand(2, 3), "criterion.weight": torch.ones(3)}
    average = {f"{name}.{wrapper}fc.weight": torch.ones(2, 3), f"{name}.n_averaged": torch.tensor(3)}
    torch.save({"state_dict": raw | average, "epoch": 3}, tmp_path / "w.ckpt")
    read = read_checkpoint(tmp_path / "w.ckpt")
    assert read.state.keys() == {"fc.weight"}
    assert torch.equal(read.state["fc.weight"], raw["model.fc.weight"])
    assert read.left_out == ("criterion.weight",)
    assert torch.equal(read_checkpoint(tmp_path / "w.ckpt", entry="ema").state["fc.weight"], torch.ones(2, 3))


def test_a_strange_name_beside_the_weights_is_not_left_out(tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.fc.weight": torch.ones(2), "teacher.fc.weight": torch.ones(2)}}, tmp_path / "w")
    read = read_checkpoint(tmp_path / "w")
    assert read.state.keys() == {"model.fc.weight", "teacher.fc.weight"}
    assert read.left_out == ()


def test_what_is_written_may_be_read_by_those_the_umask_lets(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_weights(tmp_path / "w.safetensors", {"w": torch.ones(2)}, {})
    finally:
        os.umask(old)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o640


def test_what_a_network_holds_before_it_is_filled_excuses_no_number_of_a_file() -> None:
    """Its parameters are not drawn, so that anything may stand there; what its buffers are made with is its own."""
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    load_strict(model, state, Path("file"))
    model.bias.data.fill_(torch.nan)
    with pytest.raises(WeightsError, match="NaN or infinite, in 1 of 3 tensors: bias"):
        load_strict(model, {**state, "bias": torch.tensor([torch.nan, 0.0])}, Path("file"))
