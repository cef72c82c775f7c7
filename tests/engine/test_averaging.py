"""`--ema-epoch`: the average begins anew from the weights, as in IDA's program, and a resumed run keeps to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.recipe import Recipe, override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.train import train

DECAY = 0.8
STEPS_PER_EPOCH = 4


def recipe(ema_epoch: int) -> Recipe:
    changes = {"epochs": 2, "batch_size": 20, "image_size": 32, "ema_decay": DECAY, "ema_epoch": ema_epoch}
    return override(get_method("ida").named_recipe("demo").recipe, changes)


def run(out: Path, root: Path, ema_epoch: int = 1, resume: str | None = None) -> RunFolder:
    how: dict[str, Any] = {"gpus": 0, "save_steps": 1, "keep": 100, "resume": resume}
    train(TrainRequest(method="ida", recipe=recipe(ema_epoch), out=out, data_root=root, **how))
    return RunFolder(out)


def test_the_average_begins_anew_at_its_epoch_also_when_resumed(demo_root: Path, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", demo_root)
    torch.manual_seed(recipe(1).seed)
    by_hand = get_method("ida").build_model(recipe(1), 10, "multilabel").state_dict()
    for step in range(1, 2 * STEPS_PER_EPOCH + 1):
        if step > STEPS_PER_EPOCH:
            if step == STEPS_PER_EPOCH + 1:
                by_hand = load_file(folder.folder(STEPS_PER_EPOCH) / "model.safetensors")
            for name, value in load_file(folder.folder(step) / "model.safetensors").items():
                floating = value.is_floating_point()
                by_hand[name] = DECAY * by_hand[name] + (1 - DECAY) * value if floating else value
        averaged = load_file(folder.folder(step) / "ema.safetensors")
        assert averaged.keys() == by_hand.keys()
        for name, value in averaged.items():
            torch.testing.assert_close(value, by_hand[name], rtol=1e-5, atol=1e-7, msg=f"{name} after step {step}")
    for start in (3, 4, 5):
        resumed = run(tmp_path / f"from-{start}", demo_root, resume=str(folder.folder(start)))
        for name in ("model.safetensors", "ema.safetensors", "optimizer.pt"):
            assert (resumed.folder(8) / name).read_bytes() == (folder.folder(8) / name).read_bytes(), name


def test_an_average_that_would_never_begin_is_refused(demo_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--ema-epoch 2: the run ends in epoch 1, .* before the average begins"):
        run(tmp_path / "run", demo_root, ema_epoch=2)
    assert not (tmp_path / "run").exists()
