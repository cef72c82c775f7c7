"""Samples of images and texts: tokens, negatives, pairs, pipelines, and the same from any process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbias.data.datasets import SampleKey
from attnbias.data.errors import DataError
from attnbias.data.fast_decode import pil_step
from attnbias.data.index import Record
from attnbias.data.prepare import prepare
from attnbias.data.registry import open_split
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.sets.words import word_tokenizer
from attnbias.data.transforms.language import PIPELINES, language_transform
from tests.helpers.language_sets import (
    image,
    prepared,
    write,
)


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """Prepare a set and open a split of it as the method does."""
    pytest.importorskip("transformers", reason="texts need the extra vision-language")
    from attnbias.data.language import LanguageDataset, load_tokenizer

    def opening(name: str, split: str, transform: Any = None, **options: Any) -> LanguageDataset:
        if not (tmp_path / "root" / name).exists():
            prepared(name, tmp_path)
        index = open_split(name, split, tmp_path / "root")
        tokenizer = load_tokenizer("words", index.dataset_dir)
        options = {"max_length": 12, **options}
        return LanguageDataset(index, transform or language_transform("clip", 32), tokenizer=tokenizer, **options)

    return opening


def test_questions_as_a_batch(opened: Any) -> None:
    dataset = opened("vqav2", "train2014")
    batch = dataset.collate([dataset[0], dataset[5]])
    assert {name: tuple(value.shape) for name, value in batch.items() if name != "errors"} == {
        **{"index": (2,), "image": (2, 3, 32, 32), "target": (2, len(dataset.index.classes))},
        **{"text_ids": (2, 12), "text_mask": (2, 12)},
    }
    assert batch["target"][0].nonzero().flatten().tolist() == [0, 2]
    assert batch["target"][0, [0, 2]].tolist() == pytest.approx([0.3, 1])
    assert batch["text_ids"][0, :7].tolist() == [0, *batch["text_ids"][0, 1:6].tolist(), 2]
    assert batch["text_ids"][0, 7:].tolist() == [1] * 5
    assert batch["text_mask"][0].tolist() == [1] * 7 + [0] * 5
    words = dataset.tokenizer.convert_ids_to_tokens(batch["text_ids"][0, 1:6].tolist())
    assert words == ["what", "colour", "is", "it", "?"]
    assert batch["text_ids"].dtype == batch["text_mask"].dtype == torch.int64


def test_statements_as_a_batch(opened: Any) -> None:
    dataset = opened("nlvr2", "dev")
    batch = dataset.collate([dataset[k] for k in range(4)])
    assert batch["target"].tolist() == [1, 0, 1, 0]
    assert batch["image2"].shape == batch["image"].shape
    assert not torch.equal(batch["image"], batch["image2"])
    dataset = opened("snli-ve", "train", max_length=4)
    assert dataset[1]["target"] == 1
    assert dataset[1]["text_ids"][-1] == 2  # what is cut keeps its end


def test_a_second_image_that_is_broken_is_skipped_and_named(opened: Any, tmp_path: Path) -> None:
    dataset = opened("nlvr2", "dev", on_bad_image="skip")
    path = dataset.index.root / dataset.records[0].text.second_path
    path.write_bytes(b"")
    batch = dataset.collate([dataset[k] for k in range(4)])
    assert batch["index"].tolist() == [2, 3]
    assert len(batch["errors"]) == 2
    assert str(path) in batch["errors"][0]
    assert dataset.collate([dataset[0]])["index"].tolist() == []


def test_negatives_are_of_other_images_and_follow_from_the_key(opened: Any) -> None:
    dataset = opened("flickr30k", "trainval", false_image=True, false_texts=15, seed=3)
    own: dict[str, set[tuple[int, ...]]] = {}
    for pair in dataset.pairs:
        own.setdefault(pair.path, set()).add(tuple(dataset.encode([pair.text.sentence])[0][0].tolist()))
    drawn = set()
    for index in range(len(dataset)):
        sample = dataset[SampleKey(index, 1)]
        false = {tuple(row) for row in sample["false_text_ids"].tolist()}
        others = set().union(*(texts for path, texts in own.items() if path != dataset.records[index].path))
        assert false <= others
        assert not torch.equal(sample["false_image"], sample["image"]) or len(own) > 4  # colours repeat over splits
        drawn |= false
        again = dataset[SampleKey(index, 1)]
        assert all(torch.equal(sample[name], again[name]) for name in ("image", "false_image", "false_text_ids"))
    assert drawn == set().union(*own.values())
    epochs = [dataset[SampleKey(0, epoch)]["false_text_ids"].tolist() for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    batch = dataset.collate([dataset[0], dataset[1]])
    assert batch["false_text_ids"].shape == batch["false_text_mask"].shape == (2, 15, 12)
    assert batch["false_image"].shape == (2, 3, 32, 32)
    assert batch["target"].tolist() == [0, 0]


def test_negatives_do_not_hang_on_hashes(opened: Any, tmp_path: Path) -> None:
    dataset = opened("flickr30k", "karpathy-train", false_texts=4)
    here = [dataset[k]["false_text_ids"].tolist() for k in range(len(dataset))]
    code = (
        "import json, sys; from pathlib import Path\n"
        "from attnbias.data.language import LanguageDataset, load_tokenizer\n"
        "from attnbias.data.registry import open_split\n"
        "from attnbias.data.transforms.language import language_transform\n"
        "index = open_split('flickr30k', 'karpathy-train', Path(sys.argv[1]))\n"
        "dataset = LanguageDataset(index, language_transform('clip', 32), max_length=12, false_texts=4,\n"
        "    tokenizer=load_tokenizer('words', index.dataset_dir))\n"
        "print(json.dumps([dataset[k]['false_text_ids'].tolist() for k in range(len(dataset))]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}  # this process has another one
    command = [sys.executable, "-c", code, str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert json.loads(done.stdout) == here, done.stderr


def test_retrieval_is_evaluated_with_each_image_and_each_text_once(opened: Any) -> None:
    dataset = opened("flickr30k", "test", images_once=True)
    assert [record.path for record in dataset.records] == [f"flickr30k-images/test{k}.jpg" for k in (1, 2, 3)]
    captions = dataset.captions()
    assert captions.images.tolist() == [0, 0, 1, 1, 2, 2]  # one of the seven stands twice
    assert captions.text_ids.shape == captions.text_mask.shape == (6, 12)
    assert torch.equal(dataset[1]["text_ids"], captions.text_ids[2])
    assert len(opened("flickr30k", "test")) == 6


def test_one_image_has_no_others(opened: Any) -> None:
    from attnbias.data.language import LanguageDataset

    dataset = opened("flickr30k", "test")
    alone = replace(dataset.index, records=dataset.index.records[:2])
    with pytest.raises(DataError, match="one image only"):
        LanguageDataset(alone, dataset.transform, tokenizer=dataset.tokenizer, max_length=8, false_texts=1)
    untold = replace(dataset.index, records=(Record("flickr30k-images/test1.jpg", 0),))
    with pytest.raises(DataError, match="holds no texts"):
        LanguageDataset(untold, dataset.transform, tokenizer=dataset.tokenizer, max_length=8)


def test_images_of_several_sizes_are_padded_into_a_batch(opened: Any) -> None:
    dataset = opened("nlvr2", "dev", language_transform("pixelbert", 96))
    image(dataset.index.root / dataset.records[0].path, "white", (64, 40))
    image(dataset.index.root / dataset.records[2].path, "white", (40, 64))
    batch = dataset.collate([dataset[0], dataset[2]])
    assert batch["image"].shape == (2, 3, 128, 128)
    assert batch["image"][0, 0].count_nonzero(dim=1).tolist() == [128] * 96 + [0] * 32
    assert batch["image"][1, 0].count_nonzero(dim=0).tolist() == [128] * 96 + [0] * 32


def test_words_by_frequency(opened: Any) -> None:
    dataset = opened("flickr30k", "karpathy-train")
    vocabulary = dataset.tokenizer.get_vocab()
    assert [vocabulary[word] for word in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] == [0, 1, 2, 3, 4]
    assert vocabulary["."] == 5  # the most frequent
    ids, _ = dataset.encode(["A zebra ."])
    assert ids[0, :5].tolist() == [0, vocabulary["a"], 3, vocabulary["."], 2]


def test_no_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="texts need the extra vision-language")
    from attnbias.data.language import load_tokenizer

    with pytest.raises(DataError, match=f"no tokenizer of words in {tmp_path}; run: attnbias prepare-data"):
        load_tokenizer("words", tmp_path)
    with pytest.raises(DataError, match="no tokenizer 'nobody/nothing' on this machine"):
        load_tokenizer("nobody/nothing")


def test_word_files_do_not_depend_on_the_order_of_texts() -> None:
    texts = ["A dog, a cat.", "Two dogs!", "Ein Hündchen"]
    assert word_tokenizer(texts) == word_tokenizer(reversed(texts))


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_take_images_of_any_shape(name: str) -> None:
    for size in ((50, 40), (9, 300), (300, 9)):
        image = language_transform(name, 64)(Image.new("RGB", size, (200, 30, 60)))
        assert image.dtype == torch.float32
        if name.startswith("pixelbert"):
            assert all(side % 32 == 0 and 32 <= side <= 96 for side in image.shape[1:])
        else:
            assert image.shape == (3, 64, 64)


def test_augmentation_follows_from_the_key_and_changes_with_the_epoch(opened: Any) -> None:
    dataset = opened("flickr30k", "karpathy-train", language_transform("clip_randaug", 32))
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(noise).save(dataset.index.root / dataset.records[0].path)
    images = [dataset[SampleKey(0, epoch)]["image"] for epoch in range(12)]
    assert torch.equal(images[3], dataset[SampleKey(0, 3)]["image"])
    assert len({image.numpy().tobytes() for image in images}) > 6
    assert pil_step(dataset.transform) == "DrawnOperations"  # --decode fast is refused


def test_real_questions(real_data: Path, tmp_path: Path, opened: Any) -> None:
    mini, source = real_data / "vl_fixtures" / "vqav2", tmp_path / "source"
    questions = json.loads((mini / "questions.json").read_text())
    entries = json.loads((mini / "annotations.json").read_text())["annotations"]
    for entry in entries:  # the fixture leaves out what the official files have
        entry["multiple_choice_answer"] = Counter(a["answer"] for a in entry["answers"]).most_common(1)[0][0]
    write(source / "v2_OpenEnded_mscoco_train2014_questions.json", questions)
    write(source / "v2_mscoco_train2014_annotations.json", {"annotations": entries})
    (source / "train2014").symlink_to(real_data / "vl_fixtures" / "images" / "vqav2")
    options = PrepareOptions(settings={"min_answers": 1}, verify=True)
    (index,) = prepare("vqav2", source, tmp_path / "root", options).indexes
    assert index.classes == ("net", "pitcher", "orange")
    assert [record.text.answers for record in index.records if record.text] == [
        ((0, 1.0), (1, 0.3), (2, 0.3)),
        ((1, 1.0),),
        ((2, 1.0),),
    ]
    dataset = opened("vqav2", "train2014")
    assert dataset[0]["image"].shape == (3, 32, 32)


def test_real_statements(real_data: Path, tmp_path: Path) -> None:
    fixtures = real_data / "vl_fixtures"
    source = tmp_path / "snli"
    write(source / "x", {})
    shutil.copy(fixtures / "visual_entailment" / "sample_pairs.jsonl", source / "snli_ve_dev.jsonl")
    (source / "flickr30k-images").symlink_to(fixtures / "images" / "visual_entailment")
    (index,) = prepare("snli-ve", source, tmp_path / "root", PrepareOptions(verify=True)).indexes
    assert len(index.records) == 16
    assert Counter(int(str(record.target)) for record in index.records) == {0: 4, 1: 6, 2: 6}
    source = tmp_path / "nlvr2"
    write(source / "nlvr2" / "data" / "x", {})
    shutil.copy(fixtures / "nlvr2" / "tiny-dev.json", source / "nlvr2" / "data" / "dev.json")
    (source / "dev").symlink_to(fixtures / "images" / "nlvr2")
    (index,) = prepare("nlvr2", source, tmp_path / "root", PrepareOptions(verify=True)).indexes
    assert [record.target for record in index.records] == [0, 1, 0, 1, 1, 0, 0, 1]


def test_real_captions(real_data: Path, tmp_path: Path, opened: Any) -> None:
    fixtures, source = real_data / "vl_fixtures", tmp_path / "source"
    images = []
    for file in sorted((fixtures / "flickr30k" / "sentences").glob("*.txt")):
        lines = [
            " ".join(part.split(" ", 1)[-1].rstrip("]") for part in line.split("[/EN"))
            for line in file.read_text().splitlines()
        ]
        images.append(
            {"filename": f"{file.stem}.jpg", "split": "test", "sentences": [{"raw": line.strip()} for line in lines]}
        )
    write(source / "dataset_flickr30k.json", {"images": images})
    (source / "flickr30k-images").symlink_to(fixtures / "images" / "flickr30k")
    prepare("flickr30k", source, tmp_path / "root", PrepareOptions(verify=True))
    dataset = opened("flickr30k", "test", images_once=True)
    assert len(dataset) == 5
    assert len(dataset.captions().images) == 25
