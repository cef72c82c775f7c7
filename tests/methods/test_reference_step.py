"""What a step computes, against a loop in plain PyTorch: the draws, the mixing, the mean gradient, clipping, the
update, the averaged weights and the log. What a run repeats faithfully is seen here, where resume tests are blind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from attnbias.data.datasets import SampleKey, collate
from attnbias.data.registry import open_split
from attnbias.methods.engine.abilities import OrdersEpochs
from attnbias.methods.engine.batches import on_device
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.recipe import Recipe, override, write_recipe
from attnbias.methods.engine.registry import get_method
from tests.helpers.forked import ForkedRun

SAMPLES = 72
RUN = ["--gpus", 0, "--threads", 1, "--log-every", 1, "--eval-every", 100, "--eval-batch-size", 24]


@dataclass
class ByHand:
    """Where the hand-made loop arrived: weights, averaged weights, and what the log should say of each step."""

    model: dict[str, Tensor]
    averaged: dict[str, Tensor]
    lines: list[dict[str, Any]]
    clipped: int


def seed_of(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def epoch_keys(method: Method, recipe: Recipe, epoch: int) -> list[SampleKey]:
    """The samples of an epoch in order, each with the number of its augmentation."""
    order = method.epoch_order(recipe, SAMPLES) if isinstance(method, OrdersEpochs) else None
    if order is None:
        permutation = np.random.default_rng((recipe.seed, epoch)).permutation(SAMPLES)
        return [SampleKey(int(sample), epoch) for sample in permutation]
    samples = order(epoch).tolist()
    views = max(samples.count(sample) for sample in samples)
    return [SampleKey(s, epoch * views + samples[:position].count(s)) for position, s in enumerate(samples)]


def optimizer_of(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer](groups, lr=recipe.lr)


def train_by_hand(
    method: Method, recipe: Recipe, root: Path, steps: int, *, processes: int = 1, accumulation: int = 1
) -> ByHand:
    index = open_split(recipe.dataset, "train", root)
    dataset = method.open_dataset(recipe, index, train=True)
    torch.manual_seed(recipe.seed)
    model = method.build_model(recipe, len(index.classes), index.task)
    averaged = {name: value.clone() for name, value in model.state_dict().items()}
    groups = method.param_groups(model, recipe)
    base_rates = [group["lr"] for group in groups]
    optimizer = optimizer_of(recipe, groups)
    full, rest = divmod(SAMPLES, recipe.batch_size)
    steps_per_epoch = max(full, 1) if recipe.drop_last else full + bool(rest)
    schedule = method.schedule(recipe, steps_per_epoch)
    mix = method.batch_transform(recipe, len(index.classes))
    lines, clipped = [], 0
    for step in range(steps):
        epoch, place = divmod(step, steps_per_epoch)
        keys = epoch_keys(method, recipe, epoch)[place * recipe.batch_size : (place + 1) * recipe.batch_size]
        shares = np.array_split(np.arange(len(keys)), processes * accumulation)
        settings = schedule(step)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * settings["lr"]
            if "beta1" in settings and "betas" in group:
                group["betas"] = (settings["beta1"], group["betas"][1])
            elif "beta1" in settings and group["momentum"]:
                group["momentum"] = settings["beta1"]
        optimizer.zero_grad()
        model.train()
        total = 0.0
        for rank in range(processes):
            torch.manual_seed(seed_of(recipe.seed, step, rank))
            for micro in range(accumulation):
                share = shares[micro * processes + rank]
                if not len(share):
                    continue
                batch = collate(samples_of(dataset, [keys[i] for i in share]))
                batch = on_device(batch, dataset, torch.device("cpu"))
                if mix is not None:
                    generator = np.random.default_rng((recipe.seed, step, micro, rank))
                    batch["image"], batch["target"] = mix(batch["image"], batch["target"], generator)
                loss = method.loss(model, batch, recipe, index.task)["loss"] * (len(share) / len(keys))
                loss.backward()
                total += loss.item()
        if recipe.clip_grad is not None:
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
            clipped += int(norm > recipe.clip_grad)
        lines.append({"step": step + 1, "lr": [g["lr"] for g in optimizer.param_groups], "loss": total})
        optimizer.step()
        if recipe.ema_decay is not None:
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    averaged[name] = recipe.ema_decay * averaged[name] + (1 - recipe.ema_decay) * value
                else:
                    averaged[name] = value.clone()
    return ByHand(model.state_dict(), averaged, lines, clipped)


def samples_of(dataset: Any, keys: list[SampleKey]) -> Any:
    """A batch's samples; a set that is kept in memory gives a whole batch at once."""
    fetch = getattr(dataset, "__getitems__", None)
    return fetch(keys) if fetch else [dataset[key] for key in keys]


def train_by_command(
    method: str, recipe: Recipe, root: Path, out: Path, *, processes: int = 1, accumulation: int = 1
) -> Path:
    """Run `attnbias train`; return its last checkpoint."""
    file = out.parent / "recipe.yaml"
    write_recipe(file, recipe, method)
    arguments = ["train", method, "--recipe", file, "--data-root", root, "--out", out, "--accumulation", accumulation]
    run = ForkedRun([*arguments, *RUN], out.parent / "log", processes)
    assert run.wait() == [0] * processes, run.log.read_text()
    return sorted((out / "checkpoints").glob("step-*"))[-1]


def assert_same(file: Path, expected: dict[str, Tensor]) -> None:
    found = load_file(file)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}")


def assert_logged(out: Path, expected: list[dict[str, Any]]) -> None:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, hand in zip(lines, expected, strict=True):
        assert line["lr"] == pytest.approx(hand["lr"], rel=1e-9)
        assert line["loss"] == pytest.approx(hand["loss"], rel=1e-4)


EVERYTHING = {
    "image_size": 32,
    "epochs": 2,
    "batch_size": 10,  # the last share of an epoch has two images for four micro-batches
    "drop_last": False,
    "optimizer": "sgd",
    "lr": 0.05,
    "clip_grad": 0.7,
    "ema_decay": 0.8,
    "mixup": 0.8,
    "cutmix": 1.0,
    "drop_path": 0.2,
    "dropout": 0.1,
}


@pytest.mark.parametrize(
    ("processes", "accumulation", "repeats"), [(1, 1, 1), (1, 2, 3), (2, 2, 1)], ids=["plain", "repeats", "processes"]
)
def test_training_equals_a_loop_by_hand(
    processes: int, accumulation: int, repeats: int, demo_root: Path, tmp_path: Path
) -> None:
    method = get_method("absvit")
    recipe = override(method.named_recipe("demo").recipe, {**EVERYTHING, "repeats": repeats})
    hand = train_by_hand(method, recipe, demo_root, 16, processes=processes, accumulation=accumulation)
    assert hand.clipped
    assert len({line["lr"][0] for line in hand.lines}) > 8
    cut = {"processes": processes, "accumulation": accumulation}
    last = train_by_command("absvit", recipe, demo_root, tmp_path / "run", **cut)
    assert last.name == "step-00000016"
    assert_logged(tmp_path / "run", hand.lines)
    assert_same(last / "model.safetensors", hand.model)
    assert_same(last / "ema.safetensors", hand.averaged)


@pytest.mark.parametrize("name", ["csra", "ida", "lsas", "llb", "absvit"])
def test_three_steps_of_each_demo_recipe_equal_a_loop_by_hand(name: str, demo_root: Path, tmp_path: Path) -> None:
    method = get_method(name)
    recipe = override(method.named_recipe("demo").recipe, {"steps": 3, "batch_size": 24, "ema_decay": 0.9})
    hand = train_by_hand(method, recipe, demo_root, 3)
    last = train_by_command(name, recipe, demo_root, tmp_path / "run")
    assert_logged(tmp_path / "run", hand.lines)
    assert_same(last / "model.safetensors", hand.model)
    assert_same(last / "ema.safetensors", hand.averaged)
