"""Images with texts: the official layouts through prepare-data, and answers as classes."""

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

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attnbias.data import prepare as preparing
from attnbias.data.errors import DataError
from attnbias.data.index import Record, Text
from attnbias.data.prepare import prepare
from attnbias.data.registry import DATASETS, open_split
from attnbias.data.sets.answers import answer_classes, normalize_answer, scored_answers, soft_score
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.sets.vqa import hold_out
from attnbias.data.sets.words import word_tokenizer
from attnbias.data.summary import summarize
from tests.helpers.command_line import attnbias
from tests.helpers.language_sets import (
    SETTINGS,
    TREES,
    prepared,
    snli_tree,
    vqa_tree,
    write,
)

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
    command = [sys.executable, "-m", "attnbias", "prepare-data", name, "--verify", "--root", tmp_path / "root", *extra]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}  # this process has another one
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
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


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (
            "vqav2",
            '"image_id": 3',
            '"image_id": "3"',
            "'image_id' of entry 2 of 'questions' is '3'; expected",
        ),
        ("vqav2", '"question_id": 30', '"question_id": 30.0', "'question_id' of entry 2 of "),
        (
            "vqav2",
            '"question": "What colour is it?"',
            '"question": null',
            "'question' of entry 0 of 'questions'",
        ),
        ("vqav2", '"answer": "red"', '"answer": true', "'answer' of entry 0 of 'answers' is True; expected a text"),
        ("vqav2", '"answers": [', '"answers": 3, "others": [', "'answers' of entry 0 of 'annotations' is 3"),
        ("snli-ve", '"sentence2": " It is neutral. "', '"sentence2": 3', ":2: sentence2 is 3, expected a text"),
        ("snli-ve", '"Flickr30K_ID": "11"', '"Flickr30K_ID": 11.0', ":1: Flickr30K_ID is 11.0, expected a text"),
        ("nlvr2", '"sentence": "Left is red."', '"sentence": ["Left"]', ":1: sentence is "),
        ("nlvr2", '-1-0-0"', '"', "is not PAIR-NUMBER"),
        ("flickr30k", '"raw": "', '"raw": 3, "other": "', "'raw' of entry 0 of 'sentences' is 3; expected a text"),
        ("flickr30k", '"split": "', '"split": true, "other": "', "'split' of entry 0 of 'images' is True"),
    ],
)
def test_values_of_another_type_are_refused_and_named(
    name: str, old: str, new: str, words: str, tmp_path: Path
) -> None:
    source = TREES[name](tmp_path / "source")
    for path in [*source.rglob("*.json"), *source.rglob("*.jsonl")]:
        path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError) as refused:
        prepare(name, source, tmp_path / "root", PrepareOptions(settings=SETTINGS.get(name, {})))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "root" / name).exists()


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
    listed = attnbias("list", "datasets", "--root", tmp_path, expect=0).out
    for name in TREES:
        assert name in listed
    done = attnbias("prepare-data", "flickr30k", "--min-answers", "3", "--root", tmp_path, expect=2)
    assert done.line == "error: --min-answers belongs to vqav2; 'flickr30k' has no answers to count"
    done = attnbias("prepare-data", "flickr30k", "--root", tmp_path, expect=3)
    assert "dataset_flickr30k.json (Karpathy's splits) and flickr30k-images/" in done.err


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


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_tokenizer_that_cannot_pad_is_one_line(content: str | None, tmp_path: Path) -> None:
    """Its settings beside it are gone, or say nothing."""
    pytest.importorskip("transformers")
    from attnbias.data.language import load_tokenizer

    for file, text in word_tokenizer(["a cat"]).items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    settings = tmp_path / "tokenizer" / "tokenizer_config.json"
    settings.unlink()
    if content is not None:
        settings.write_text(content)
    with pytest.raises(DataError, match=f"the tokenizer '{tmp_path}/tokenizer' has no token to pad with"):
        load_tokenizer("words", tmp_path)
