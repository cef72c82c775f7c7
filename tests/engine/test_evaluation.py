"""One evaluation of several models and processes: a split is read once, measured once, and kept where it is needed."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from attnbias.data.datasets import ImageDataset
from attnbias.data.index import Index, Record
from attnbias.methods.engine.evaluation.evaluate import evaluate, evaluate_all
from attnbias.methods.engine.recipe import Recipe, override
from attnbias.methods.engine.registry import get_method
from tests.helpers.forked import FORKS, free_port

METHOD = get_method("csra")
COUNT = 7


class Linear(nn.Module):
    """Scores of the mean colour, by weights of a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(images.mean((2, 3)))
        return logits


def opened(folder: Path) -> tuple[Recipe, ImageDataset, Counter[int]]:
    """A recipe, some images, the last of them damaged, and how often each is read."""
    rng = np.random.default_rng(0)
    for position in range(COUNT):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / f"{position}.png")
    (folder / f"{COUNT}.png").write_bytes(b"no image")
    records = tuple(Record(f"{position}.png", (position % 2, 1, 0)) for position in range(COUNT + 1))
    recipe = override(METHOD.named_recipe("demo").recipe, {"image_size": 16})
    index = Index("some", "val", "multilabel", ("a", "b", "c"), folder, records)
    dataset, reads = METHOD.open_dataset(recipe, index, on_bad_image="skip"), Counter[int]()
    read = dataset.file
    dataset.file = lambda position: reads.update([position]) or read(position)  # type: ignore[method-assign]
    return recipe, dataset, reads


def test_a_split_is_read_once_for_all_models(tmp_path: Path) -> None:
    recipe, dataset, reads = opened(tmp_path)
    models, accelerator = [Linear(0), Linear(1)], Accelerator(cpu=True)
    found = evaluate_all(METHOD, models, dataset, recipe, accelerator, batch_size=2)
    assert reads == dict.fromkeys(range(COUNT + 1), 1)
    for model, each in zip(models, found, strict=True):
        alone = evaluate(METHOD, model, dataset, recipe, accelerator, batch_size=2)
        assert np.array_equal(each.scores["scores"], alone.scores["scores"])
        assert (each.measures, each.skipped, each.ids.tolist()) == (alone.measures, alone.skipped, [*range(COUNT)])
    assert found[0].measures != found[1].measures


def evaluate_as(rank: int, port: int, folder: Path) -> None:
    """Evaluate as one of three processes, with fewer batches than that; what it holds goes to a file."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    torch.set_num_threads(1)
    (folder / str(rank)).mkdir()
    recipe, dataset, _ = opened(folder / str(rank))
    if rank:
        METHOD.measure_all = None  # type: ignore[method-assign,assignment]
    held = []
    for everywhere in (True, False):
        (found,) = evaluate_all(
            METHOD, [Linear(0)], dataset, recipe, Accelerator(cpu=True), batch_size=4, everywhere=everywhere
        )
        held.append([found.measures["mAP"], len(found.skipped), found.ids.tolist()])
    (folder / f"{rank}.json").write_text(json.dumps(held))
    torch.distributed.destroy_process_group()


def test_the_main_process_measures_and_can_be_the_only_one_that_holds_all_scores(tmp_path: Path) -> None:
    port = free_port()
    processes = [FORKS.Process(target=evaluate_as, args=(rank, port, tmp_path)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    (value, skipped, ids), alone = json.loads((tmp_path / "0.json").read_text())
    assert [skipped, ids] == [1, [*range(COUNT)]]
    assert alone == [value, 1, ids]
    for rank, own in ((1, [4, 5, 6]), (2, [])):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [[value, 1, ids], [value, 1, own]]
