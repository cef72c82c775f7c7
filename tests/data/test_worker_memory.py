"""Workers share the index: reading any sample of it makes no copy of its pages."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from attnbias.data.datasets import ImageDataset
from attnbias.data.flat import FlatTexts
from attnbias.data.index import Index, Record
from attnbias.methods.engine.batches import batches

ROLLUP = Path("/proc/self/smaps_rollup")
SAMPLES = 60_000


def own_memory() -> float:
    """MB of this process that it shares with no other."""
    return sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB", ROLLUP.read_text(), re.MULTILINE))) / 1024


def test_flat_texts_are_a_sequence_of_the_texts() -> None:
    texts = ["a/b.jpg", "", "ü/漢字.png", "broken \udcff name"]
    flat = FlatTexts(texts)
    assert list(flat) == texts
    assert [flat[-1], flat[1:3]] == [texts[-1], texts[1:3]]
    with pytest.raises(IndexError):
        flat[4]
    assert list(FlatTexts([])) == []


@pytest.mark.skipif(not ROLLUP.is_file(), reason="this kernel does not tell what a process shares")
def test_a_worker_that_reads_a_whole_index_copies_none_of_it(tmp_path: Path) -> None:
    """It reads every path and label, then every record, and collects garbage, while it makes its first sample."""
    gc.collect()  # what other tests left behind
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    records = (Record("0.png", 0), *(Record(f"folder/{number:040d}.png", number % 10) for number in range(SAMPLES)))
    index = Index("many", "train", "singlelabel", tuple("abcdefghij"), tmp_path, records)

    def grown(image: Image.Image) -> Tensor:
        sizes = [own_memory()]
        assert sum(map(len, dataset.paths)) + int(dataset.targets.sum())
        sizes.append(own_memory())
        gc.collect()
        sizes.append(own_memory())
        assert sum(len(record.path) for record in dataset.records)
        sizes.append(own_memory())
        return torch.tensor(sizes).diff()

    dataset = ImageDataset(index, grown)
    (batch,) = batches(dataset, [[0]], workers=1, device=torch.device("cpu"))
    by_paths, by_collector, by_records = batch["image"][0].tolist()
    assert by_paths < 2
    assert by_collector < 10  # it would write to all that this process holds, 100 MB and more
    assert by_records > 8  # what the paths spare
    assert gc.get_freeze_count() == 0
