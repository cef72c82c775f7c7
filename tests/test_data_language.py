"""Images with texts: the official layouts through prepare-data, answers as classes, tokens, negatives, pipelines."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attnbias.data import prepare as preparing
from attnbias.data.datasets import SampleKey
from attnbias.data.errors import DataError
from attnbias.data.fast_decode import pil_step
from attnbias.data.index import Record, Text
from attnbias.data.prepare import prepare
from attnbias.data.registry import DATASETS, open_split
from attnbias.data.sets.answers import answer_classes, normalize_answer, scored_answers, soft_score
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.sets.vqa import hold_out
from attnbias.data.sets.words import word_tokenizer
from attnbias.data.summary import summarize
from attnbias.data.transforms.language import PIPELINES, language_transform

COLOURS = ("red", "green", "blue", "yellow")


def image(path: Path, colour: str = "red", size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write(path: Path, content: Any, *, lines: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, content)) if lines else json.dumps(content))


def vqa_tree(source: Path) -> Path:
    """Two questions per image: its colour, told by nine of ten people, and one whose answer nobody repeats."""
    for split, numbers in {"train2014": (7, 3, 12, 5), "val2014": (2, 9), "test2015": (1, 4)}.items():
        questions, annotations = [], []
        for position, number in enumerate(numbers):
            colour = COLOURS[position % 4]
            image(source / split / f"COCO_{split}_{number:012d}.jpg", colour)
            for kind, question in enumerate(("What colour is it?", "Who took it?")):
                identifier = 10 * number + kind
                answers = [colour] * 9 + ["red"] if kind == 0 else [f"person {number} {i}" for i in range(10)]
                questions.append({"image_id": number, "question_id": identifier, "question": question})
                annotations.append(
                    {
                        **{"image_id": number, "question_id": identifier},
                        "multiple_choice_answer": answers[0].title(),
                        "answers": [{"answer": answer, "answer_id": i} for i, answer in enumerate(answers, start=1)],
                    }
                )
        write(source / f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
        if split != "test2015":
            write(source / f"v2_mscoco_{split}_annotations.json", {"annotations": annotations})
        else:
            write(source / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions[:2]})
    return source


def snli_tree(source: Path) -> Path:
    for name in ("11", "12"):
        image(source / "flickr30k-images" / f"{name}.jpg")
    for split in ("train", "dev", "test"):
        rows = [
            {"Flickr30K_ID": name, "sentence1": "A premise.", "sentence2": f" It is {label}. ", "gold_label": label}
            for name in ("11", "12")
            for label in ("entailment", "neutral", "contradiction")
        ]
        write(source / f"snli_ve_{split}.jsonl", rows, lines=True)
    return source


def nlvr2_tree(source: Path) -> Path:
    for split, folder in {"train": "images/train/5", "dev": "dev", "test1": "test1"}.items():
        rows = []
        for pair in (f"{split}-1-0", f"{split}-2-0"):
            for side, colour in enumerate(("red", "green")):
                image(source / folder / f"{pair}-img{side}.png", colour)
            place = {"directory": 5} if split == "train" else {}
            rows += [
                {"identifier": f"{pair}-{k}", "sentence": "Left is red.", "label": label, **place}
                for k, label in enumerate(("True", "False"))
            ]
        write(source / "nlvr2" / "data" / f"{split}.json", rows, lines=True)
    return source


def caption_tree(source: Path, name: str = "flickr30k") -> Path:
    """Karpathy's file over images with two captions each; the first image has its first caption twice."""
    folders = {"flickr30k": ("flickr30k-images",) * 3, "coco-captions": ("train2014", "val2014", "val2014")}[name]
    splits = {"flickr30k": ("train", "val", "test"), "coco-captions": ("train", "restval", "test")}[name]
    images = []
    for split, folder in zip(splits, folders, strict=True):
        for number in (3, 1, 2):
            file = f"{split}{number}.jpg"
            image(source / folder / file, COLOURS[number])
            captions = [f"A {COLOURS[number]} square of {split}.", f"Something {COLOURS[number]}."]
            captions += captions[:1] if number == 1 else []
            images.append({"filename": file, "split": split, "sentences": [{"raw": c} for c in captions]})
    write(source / f"dataset_{'coco' if name == 'coco-captions' else name}.json", {"images": images})
    return source


TREES: dict[str, Any] = {
    "vqav2": vqa_tree,
    "snli-ve": snli_tree,
    "nlvr2": nlvr2_tree,
    "flickr30k": caption_tree,
    "coco-captions": lambda source: caption_tree(source, "coco-captions"),
}
SETTINGS: dict[str, dict[str, Any]] = {"vqav2": {"min_answers": 1}}


def prepared(name: str, tmp_path: Path, **options: Any) -> preparing.Report:
    source = TREES[name](tmp_path / "source")
    return prepare(name, source, tmp_path / "root", PrepareOptions(settings=SETTINGS.get(name, {}), **options))


def attnbias(*arguments: str | Path, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attnbias", *map(str, arguments)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


# Answers --------------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(["red", "Red", "the red", "two", "2", "dont", "a", "no, no", "x-y", "3.5", "1,000"])


@given(st.lists(WORDS, max_size=40), st.integers(1, 9))
def test_classes_are_the_frequent_answers_by_first_appearance(majority: list[str], least: int) -> None:
    classes = answer_classes(majority, least)
    normal = [normalize_answer(answer) for answer in majority]
    assert set(classes) == {answer for answer in normal if normal.count(answer) >= least}
    assert [normal.index(answer) for answer in classes] == sorted(normal.index(answer) for answer in classes)


@given(st.lists(WORDS, min_size=10, max_size=10))
def test_soft_scores_count_what_people_typed(answers: list[str]) -> None:
    label_of = {"red": 0, "2": 1, "no, no": 2}
    scored = scored_answers(answers, label_of)
    counts = Counter(answers)
    assert dict(scored) == {label: soft_score(counts[word]) for word, label in label_of.items() if counts[word]}
    assert [label for label, _ in scored] == [label_of[word] for word in counts if word in label_of]
    assert all(0.3 <= score <= 1 for _, score in scored)
    assert [soft_score(people) for people in range(6)] == [0, 0.3, 0.6, 0.9, 1, 1]


@given(st.text())
def test_normalised_answers_are_lower_case_words(answer: str) -> None:
    words = normalize_answer(answer).split(" ")
    assert words == [word.lower() for word in words]
    assert "," not in "".join(words)


# prepare-data ---------------------------------------------------------------------------------------------------------


def test_questions_become_samples_of_the_programs_splits(tmp_path: Path) -> None:
    report = prepared("vqav2", tmp_path)
    assert report.prepared.splits == (
        *("trainval", "train2014", "val2014", "trainable", "rest_val", "test", "test-dev"),
    )
    assert report.prepared.roles == {"train": "trainval", "val": "val2014"}
    train, val, both = (open_split("vqav2", split, tmp_path / "root") for split in ("train2014", "val2014", "trainval"))
    assert open_split("vqav2", "train", tmp_path / "root") == both
    assert [record.image_id for record in train.records] == [3, 3, 5, 5, 7, 7, 12, 12]  # sorted, not shuffled
    assert both.records == train.records + val.records
    assert train.classes == val.classes
    assert train.classes[:3] == ("red", "person 7 0", "green")
    first = train.records[0]
    assert first.path == "train2014/COCO_train2014_000000000003.jpg"
    assert first.text == Text("What colour is it?", ((2, 1.0), (0, 0.3)), identifier="30")
    test = open_split("vqav2", "test", tmp_path / "root")
    assert [record.text.answers for record in test.records if record.text] == [()] * 4
    assert [record.image_id for record in open_split("vqav2", "test-dev", tmp_path / "root").records] == [1, 1]
    assert open_split("vqav2", "trainable", tmp_path / "root").records == train.records  # val has fewer than 1000


def test_questions_whose_answers_are_no_classes_are_left_out(tmp_path: Path) -> None:
    source = vqa_tree(tmp_path / "source")
    with pytest.raises(DataError, match=r"majority answer of 9 questions; give a lower --min-answers"):
        prepare("vqav2", source, tmp_path / "root")
    report = prepare("vqav2", source, tmp_path / "root", PrepareOptions(settings={"min_answers": 2}))
    train = report.indexes[1]
    assert train.classes == ("red", "green")
    texts = [record.text for record in train.records]
    assert [(text.sentence, text.answers) for text in texts if text] == [
        ("What colour is it?", ((1, 1.0), (0, 0.3))),
        ("What colour is it?", ((0, 0.3),)),
        ("What colour is it?", ((0, 1.0),)),
        ("What colour is it?", ((0, 0.3),)),
    ]
    assert (summarize(train).unlabelled, summarize(train).labels) == (0, 5)
    with pytest.raises(DataError, match=r"was prepared with min_answers 2; add --overwrite"):
        prepare("vqav2", source, tmp_path / "root", PrepareOptions(settings={"min_answers": 1}))
    prepare("vqav2", None, tmp_path / "root", PrepareOptions(settings={"min_answers": 1}, overwrite=True))
    assert len(open_split("vqav2", "train", tmp_path / "root").classes) > 2


def test_the_clean_choice_is_what_is_prepared_alone(tmp_path: Path) -> None:
    for name, splits in (("vqav2", ("trainable", "rest_val")), ("flickr30k", ("karpathy-train", "karpathy-val"))):
        roles = prepared(name, tmp_path / name, splits=splits).prepared.roles
        assert roles == {"train": splits[0], "val": splits[1]}


def test_the_last_images_are_held_out_with_all_their_questions() -> None:
    records = tuple(Record(f"{k // 3}.jpg", 0, text=Text(str(k))) for k in range(12))
    kept, rest = hold_out(records, images=2)
    assert (kept, rest) == (records[:6], records[6:])


def test_statements(tmp_path: Path) -> None:
    prepared("snli-ve", tmp_path / "snli")
    train, dev = (open_split("snli-ve", role, tmp_path / "snli" / "root") for role in ("train", "val"))
    assert (train.split, dev.split) == ("train", "dev")
    assert [train.classes[int(str(record.target))] for record in train.records[:3]] == [
        *("entailment", "neutral", "contradiction"),
    ]
    assert train.records[3].path == "flickr30k-images/12.jpg"
    prepared("nlvr2", tmp_path / "nlvr2")
    index = open_split("nlvr2", "train", tmp_path / "nlvr2" / "root")
    assert [record.target for record in index.records] == [1, 0, 1, 0]
    assert index.records[0].images == tuple(f"images/train/5/train-1-0-img{side}.png" for side in (0, 1))
    assert summarize(index).images == 4


def test_captions_and_the_split_that_the_program_trains_on(tmp_path: Path) -> None:
    for name, united, parts in (
        ("flickr30k", "trainval", ("karpathy-train", "karpathy-val")),
        ("coco-captions", "trainrestval", ("karpathy-train", "restval")),
    ):
        report = prepared(name, tmp_path / name)
        assert report.prepared.roles == {"train": united, "val": "test"}
        indexes = {index.split: index for index in report.indexes}
        assert indexes[united].records == sum((indexes[part].records for part in parts), ())
        names = [Path(record.path).name for record in indexes["karpathy-train"].records]
        assert names == ["train1.jpg"] * 3 + ["train2.jpg"] * 2 + ["train3.jpg"] * 2


def test_captions_of_the_web_without_the_images_that_vanished(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for split, name in (("train", "1"), ("train", "2"), ("val", "3")):
        (source / f"images_{split}" / "0000").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(source / f"images_{split}" / "0000" / name, "JPEG")
    write(source / "train_annot.json", [["http://a/2", "two"], ["http://a/9", "gone"], ["http://a/1", "one"]])
    write(source / "val_annot.json", [["3", "three"]])
    train, val = prepare("cc3m", source, tmp_path / "root", PrepareOptions(verify=True)).indexes
    assert [(r.path, r.text.sentence) for r in train.records if r.text] == [
        ("images_train/0000/1", "one"),
        ("images_train/0000/2", "two"),
    ]
    assert len(val.records) == 1


@pytest.mark.parametrize("name", TREES)
def test_the_same_files_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    folder = prepared(name, tmp_path).folder
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    extra = ["--min-answers", "1"] if name == "vqav2" else []
    done = attnbias("prepare-data", name, "--verify", "--root", tmp_path / "root", *extra, hash_seed="7")
    assert done.returncode == 0, done.stderr
    assert f"{name} is ready in" in done.stdout.replace("\n", " ")
    assert re.search(r"images +samples +texts +labels", done.stdout)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first


@pytest.mark.parametrize("name", TREES)
def test_missing_images_and_damaged_annotations_are_named(name: str, tmp_path: Path) -> None:
    source = TREES[name](tmp_path / "source")
    options = PrepareOptions(settings=SETTINGS.get(name, {}), dry_run=True)
    lost = sorted(path for path in source.rglob("*") if path.suffix in (".jpg", ".png"))[-1]
    lost.unlink()
    with pytest.raises(DataError, match=r"1 of \d+ images are missing"):
        prepare(name, source, tmp_path / "root", options)
    annotation = sorted(path for path in source.rglob("*") if path.suffix in (".json", ".jsonl"))[-1]
    annotation.write_text(annotation.read_text()[:-9])
    with pytest.raises(DataError, match=str(annotation)):
        prepare(name, source, tmp_path / "root", options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no"):
        prepare(name, tmp_path / "empty", tmp_path / "root", options)


def test_labels_that_are_none_and_questions_without_entry(tmp_path: Path) -> None:
    source = snli_tree(tmp_path / "snli")
    path = source / "snli_ve_dev.jsonl"
    path.write_text(path.read_text().replace('"neutral"', '"-"', 1))
    with pytest.raises(DataError, match=r"snli_ve_dev\.jsonl:2: gold_label is '-', expected one of contradiction"):
        prepare("snli-ve", source, tmp_path / "root")
    source = vqa_tree(tmp_path / "vqa")
    path = source / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    write(path, {"annotations": content["annotations"][1:]})
    with pytest.raises(DataError, match="question 20 of val2014 has no entry"):
        prepare("vqav2", source, tmp_path / "root", PrepareOptions(settings={"min_answers": 1}))
    path.unlink()
    with pytest.raises(DataError, match=r"questions of val2014, but no v2_mscoco_val2014_annotations\.json"):
        prepare("vqav2", source, tmp_path / "root", PrepareOptions(settings={"min_answers": 1}))


def test_test_questions_wait_for_their_images(tmp_path: Path) -> None:
    source = vqa_tree(tmp_path / "source")
    shutil.rmtree(source / "test2015")
    report = prepare("vqav2", source, tmp_path / "root", PrepareOptions(settings={"min_answers": 1}))
    assert report.prepared.splits == ("trainval", "train2014", "val2014", "trainable", "rest_val")
    assert any("test-dev: left out" in warning for warning in report.warnings)


def test_vqa_from_the_official_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, source = vqa_tree(tmp_path / "tree"), tmp_path / "archives"
    source.mkdir()
    members = {
        "v2_Questions_Train_mscoco.zip": ["v2_OpenEnded_mscoco_train2014_questions.json"],
        "v2_Questions_Val_mscoco.zip": ["v2_OpenEnded_mscoco_val2014_questions.json"],
        "v2_Annotations_Train_mscoco.zip": ["v2_mscoco_train2014_annotations.json"],
        "v2_Annotations_Val_mscoco.zip": ["v2_mscoco_val2014_annotations.json"],
        **{
            f"{split}.zip": [f"{split}/{path.name}" for path in sorted((tree / split).iterdir())]
            for split in ("train2014", "val2014")
        },
    }
    assert set(members) < {archive.file for archive in DATASETS["vqav2"].archives}
    for name, files in members.items():
        with zipfile.ZipFile(source / name, "w") as archive:
            for file in files:
                archive.write(tree / file, file)
    info = DATASETS["vqav2"]
    info = replace(info, archives=tuple(replace(a, size=None, algorithm=None, digest=None) for a in info.archives))
    monkeypatch.setattr(preparing, "DATASETS", {**DATASETS, "vqav2": info})
    report = prepare("vqav2", source, tmp_path / "root", PrepareOptions(settings={"min_answers": 1}))
    assert [len(index.records) for index in report.indexes] == [12, 8, 4, 8, 4]


def test_the_command_line_knows_the_sets_and_their_option(tmp_path: Path) -> None:
    listed = attnbias("list", "datasets", "--root", tmp_path).stdout
    for name in TREES:
        assert name in listed
    done = attnbias("prepare-data", "flickr30k", "--min-answers", "3", "--root", tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --min-answers belongs to vqav2; 'flickr30k' has no answers to count\n",
    )
    done = attnbias("prepare-data", "flickr30k", "--root", tmp_path)
    assert done.returncode == 3
    assert "dataset_flickr30k.json (Karpathy's splits) and flickr30k-images/" in done.stderr


# Samples --------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("content", ["", "5", "[]", "{}", "no JSON", "[" * 100_000], ids=lambda content: content[:5])
def test_a_damaged_tokenizer_is_one_line(content: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from attnbias.data.language import load_tokenizer

    for file, text in word_tokenizer(["a cat"]).items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    load_tokenizer("words", tmp_path)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=f"the tokenizer '{tmp_path}/tokenizer' is damaged") as damaged:
        load_tokenizer("words", tmp_path)
    assert "\n" not in str(damaged.value)


def test_word_files_do_not_depend_on_the_order_of_texts() -> None:
    texts = ["A dog, a cat.", "Two dogs!", "Ein Hündchen"]
    assert word_tokenizer(texts) == word_tokenizer(reversed(texts))


# Pipelines ------------------------------------------------------------------------------------------------------------


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


# Real images and texts ----------------------------------------------------------------------------------------------


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
