"""`attnbias predict` of models that label pixels, or that are asked in words."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.prepare import prepare
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.sets.palettes import palette
from attnbias.methods.engine.display.segments import paint
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import load_run, weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.model import load
from attnbias.weights.files import write_weights
from tests.helpers.command_line import Result, attnbias

CLASSES = ("ground", "disc", "box")
ANSWERS = ("red", "green", "blue", "yes")
CPU = ("--gpus", 0, "--threads", 1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images of different sizes, one a colour of its own."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number, (height, width) in enumerate(((40, 60), (56, 48), (64, 64)), start=1):
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        pixels[..., number - 1] |= 192
        Image.fromarray(pixels).save(folder / f"COCO_test2015_{number:012d}.png")
    return folder


def stored(path: Path, name: str, named: str, classes: tuple[str, ...], task: Any, **changes: Any) -> Path:
    """A small model with random weights, as training stores it."""
    method = get_method(name)
    recipe = override(method.named_recipe(named).recipe, changes)
    torch.manual_seed(0)
    net = method.build_model(recipe, len(classes), task)
    with torch.no_grad():  # whose classes differ
        for part, parameter in net.named_parameters():
            if part in ("decode_head.conv_seg.weight", "rank_output.weight"):
                parameter.normal_()
            elif "classifier" in part and parameter.ndim == 2:
                parameter.normal_(std=0.1)
    write_weights(path, net.state_dict(), weights_metadata(method, recipe, classes, task))
    return path


# Pixels ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def segmenter(tmp_path: Path) -> Path:
    return stored(
        *(tmp_path / "model.safetensors", "absvit-segmentation", "mini", CLASSES, "segmentation"),
        channels=8,
        aux_channels=4,
    )


def expected(model: Path, photo: Path, **fields: Any) -> NDArray[np.int64]:
    loaded = load_run("absvit-segmentation", str(model), fields, "cpu")
    labels: NDArray[np.int64] = loaded.method.label_map(
        loaded.model, np.asarray(Image.open(photo).convert("RGB")), loaded.recipe
    )
    return labels


def test_label_maps_overlays_and_areas_are_those_of_evaluation(segmenter: Path, photos: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "out", tmp_path / "areas.csv"
    words = ("predict", "--load-from", segmenter, photos, *CPU)
    done = attnbias(*words, "--out", out, "--json", "-", "--csv", table, expect=0)
    content = json.loads(done.out)
    files = sorted(photos.iterdir())
    assert [item["path"] for item in content["pictures"]] == [str(file) for file in files]
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[0] == ["path", *CLASSES]
    for item, row, file in zip(content["pictures"], rows[1:], files, strict=True):
        labels = expected(segmenter, file)
        with Image.open(out / item["label_map"]) as drawn:
            assert drawn.mode == "P"
            assert np.array_equal(np.asarray(drawn), labels)
            assert drawn.getpalette()[:9] == palette(CLASSES).ravel().tolist()
        with Image.open(out / "overlays" / Path(item["label_map"]).name) as over:
            original = np.asarray(Image.open(file).convert("RGB"))
            assert np.array_equal(np.asarray(over), paint(original, labels, palette(CLASSES)))
        shares = [(labels == number).mean() for number in range(3)]
        assert np.allclose([float(value) for value in row[1:]], shares, atol=1e-6)
        named = {each["class"]: each["share"] for each in item["classes"]}
        assert named == pytest.approx({c: s for c, s in zip(CLASSES, shares, strict=True) if s}, abs=1e-6)
        assert list(named.values()) == sorted(named.values(), reverse=True)
    assert "is not empty; choose another folder or add --overwrite" in attnbias(*words, "--out", out, expect=2).line
    lines = attnbias(*words, "--top-k", 1, expect=0).out.splitlines()
    assert [line.count("%") for line in lines] == [1, 1, 1]


@pytest.mark.slow
def test_processes_share_the_images_and_write_the_same(segmenter: Path, photos: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ("predict", "--load-from", segmenter, photos, "--out", tmp_path / "out", *CPU)
    one = attnbias(*words, expect=0).out
    before = {path: path.read_bytes() for path in out.rglob("*.png")}
    assert len(before) == 6
    two = attnbias(*words, "--overwrite", "--processes", 2, expect=0).out
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == before
    assert two == one


def test_windows_and_sizes_are_those_that_were_typed(segmenter: Path, photos: Path, tmp_path: Path) -> None:
    slide = {"mode": "slide", "slide_crop": (32, 32), "slide_stride": (20, 20)}
    file = sorted(photos.iterdir())[2]
    typed = ("--mode", "slide", "--slide-crop", "32,32", "--slide-stride", "20,20")
    windows = "windows of 32 x 32, 20 down and 20 across (slide)"
    sizes = "at 0.5, 0.75, 1, 1.25, 1.5, 1.75 of that, also mirrored (aug_test)"
    for fields, flags, words in ((slide, typed, windows), ({"aug_test": True}, ("--aug-test",), sizes)):
        out, told = tmp_path / flags[0].strip("-"), tmp_path / "found.json"
        asked = ("predict", "--load-from", segmenter, file, *flags, "--out", out, "--json", told, "--overwrite", *CPU)
        assert f", {words}; normalize" in attnbias(*asked, expect=0).err
        steps = json.loads(told.read_text())["preprocessing"]["steps"]
        assert len(steps) == 2
        assert steps[1] == words
        (written,) = (out / "labels").iterdir()
        labels = np.asarray(Image.open(written))
        assert np.array_equal(labels, expected(segmenter, file, **fields))
        assert not np.array_equal(labels, expected(segmenter, file))


def test_maps_are_of_squares_and_say_so(segmenter: Path, photos: Path, tmp_path: Path) -> None:
    """Of other images than those that pixels are labelled of."""
    seen = ("visualize", "absvit", "--load-from", segmenter, sorted(photos.iterdir())[0], "--out", tmp_path / "seen")
    assert "FitSquare(size=" in attnbias(*seen, "--device", "cpu", expect=0).err


def test_a_broken_image_stops_or_is_left_out(segmenter: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "z.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert "z.png" in attnbias("predict", "--load-from", segmenter, photos, "--out", out, *CPU, expect=3).line
    assert not out.exists()
    done = attnbias("predict", "--load-from", segmenter, photos, "--on-bad-image", "skip", *CPU, expect=0)
    assert len(done.out.splitlines()) == 3
    assert "left out:" in done.err
    assert "z.png" in done.err


# Words ----------------------------------------------------------------------------------------------------------------


def prepared_questions(source: Path, question: str) -> Path:
    """A data root with VQAv2 in its official layout: an image and a question a split, for its tokenizer."""
    pytest.importorskip("transformers", reason="texts need the extra vision-language")
    for split in ("train2014", "val2014"):
        (source / split).mkdir()
        entry = {"image_id": 1, "question_id": 1}
        Image.new("RGB", (60, 40), "red").save(source / split / f"COCO_{split}_{1:012d}.jpg")
        asked = {**entry, "question": question}
        answer = {**entry, "multiple_choice_answer": "red", "answers": [{"answer": "red"}] * 10}
        (source / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps({"questions": [asked]}))
        (source / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps({"annotations": [answer]}))
    prepare("vqav2", source, source / "root", PrepareOptions(settings={"min_answers": 1}))
    return source / "root"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_questions(tmp_path_factory.mktemp("vqa"), "What colour is it? A red, a green or a blue square?")


@pytest.fixture
def ask(root: Path, tmp_path: Path) -> Any:
    """`attnbias predict` of a tiny model of a task."""

    def run(task: str, *words: object, expect: int = 0) -> Result:
        path = tmp_path / f"{task}.safetensors"
        classes = {"vqa": ANSWERS, "retrieval": (), "nlvr2": ("False", "True")}.get(task, ("no", "maybe", "yes"))
        if not path.exists():
            small = {"image_size": 32, "fusion_width": 32, "fusion_layers": 1, "dataset": "vqav2", "tokenizer": "words"}
            stored(path, "absvit-vision-language", f"tiny-{task}", classes, task, **small)
        return attnbias("predict", "--load-from", path, "--data-root", root, *words, *CPU, expect=expect)

    return run


def test_questions_that_are_typed_are_asked_of_every_image(ask: Any, photos: Path, tmp_path: Path) -> None:
    questions = ("--question", "What colour is it?", "--question", "A red square?")
    done = ask("vqa", photos, *questions, "--json", "-", "--csv", tmp_path / "t.csv")
    items = json.loads(done.out)["pictures"]
    files = [str(file) for file in sorted(photos.iterdir()) for _ in range(2)]
    assert [item["path"] for item in items] == files
    assert [item["question"] for item in items] == ["What colour is it?", "A red square?"] * 3
    for item in items:
        scores = [each["score"] for each in item["answers"]]
        assert scores == sorted(scores, reverse=True)
        assert {each["answer"] for each in item["answers"]} == set(ANSWERS)
    rows = list(csv.reader((tmp_path / "t.csv").read_text().splitlines()))
    assert rows[0] == ["path", "second_path", "id", "text", "answer", "score"]
    assert [row[4] for row in rows[1:]] == [item["answers"][0]["answer"] for item in items]
    two = ask(
        "vqa", photos, *questions, "--top-k", 1, "--eval-batch-size", 1, "--csv", tmp_path / "t.csv", "--overwrite"
    )
    assert [line.rsplit(" ", 2)[1] for line in two.out.splitlines()] == [row[4] for row in rows[1:]]


def test_a_submission_is_in_the_form_of_vqas_server(ask: Any, photos: Path, tmp_path: Path) -> None:
    official = tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json"
    questions = [
        {"image_id": number, "question_id": 1000 * number, "question": "What colour is it?"} for number in (3, 1, 2)
    ]
    official.write_text(json.dumps({"info": {}, "questions": questions}))
    file = tmp_path / "submission.json"
    ask("vqa", official, photos, "--submission", file)
    said = json.loads(file.read_text())
    assert [set(each) for each in said] == [{"question_id", "answer"}] * 3
    assert [each["question_id"] for each in said] == [3000, 1000, 2000]
    assert {each["answer"] for each in said} <= {*ANSWERS}
    assert (
        "exists; choose another name or add --overwrite"
        in ask("vqa", official, photos, "--submission", file, expect=2).line
    )
    ask("vqa", official, photos, "--submission", file, "--overwrite")
    assert json.loads(file.read_text()) == said
    other = tmp_path / "other.json"
    typed = ask("vqa", photos, "--question", "A red square?", "--submission", other, expect=2)
    assert "'A red square?' has no question_id" in typed.line
    assert not other.exists()
    for words, changed in (
        ("two questions have the question_id 3000", {"question_id": 3000}),
        ("no question_id that is a whole number", {"question_id": "9" * 5000}),
    ):
        official.write_text(json.dumps({"questions": [*questions[:2], questions[2] | changed]}))
        assert words in ask("vqa", official, photos, "--submission", other, expect=2).line
    for words in (("--threshold", 0.9), ("--on-bad-image", "skip")):
        line = ask("vqa", official, photos, "--submission", other, *words, expect=2).line
        assert f"{words[0]} changes nothing with --submission, which is an answer to every question" in line
    assert not other.exists()
    official.write_text(json.dumps({"questions": [questions[0] | {"image_id": True}]}))
    assert "image True of question 1 is not among the images" in ask("vqa", official, photos, expect=3).line
    official.write_text(json.dumps({"questions": questions}))
    (tmp_path / "twin_3.png").write_bytes((photos / f"COCO_test2015_{3:012d}.png").read_bytes())
    assert "image 3 of question 1 may be" in ask("vqa", official, photos, tmp_path / "twin_3.png", expect=3).line
    questions[1]["image_id"] = 77
    official.write_text(json.dumps({"questions": questions}))
    assert "image 77 of question 2 is not among the images" in ask("vqa", official, photos, expect=3).line


def test_questions_of_a_table_are_about_its_images(ask: Any, photos: Path, tmp_path: Path) -> None:
    first, second = (f"photos/{file.name}" for file in sorted(photos.iterdir())[:2])
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"image,second_image,statement\n{first},{second},A red square\n{second},{first},A red square\n")
    items = json.loads(ask("nlvr2", pairs, "--json", "-").out)["pictures"]
    assert [Path(item["second_path"]).name for item in items] == [Path(second).name, Path(first).name]
    assert items[0]["answers"] != items[1]["answers"]
    assert sum(each["score"] for each in items[0]["answers"]) == pytest.approx(1, abs=1e-5)
    one = tmp_path / "one.json"
    one.write_text(json.dumps([{"path": first, "hypothesis": "It is red."}]))
    (item,) = json.loads(ask("snli-ve", one, "--json", "-").out)["pictures"]
    assert {each["answer"] for each in item["answers"]} == {"no", "maybe", "yes"}
    assert "is about two images, and" in ask("snli-ve", pairs, expect=2).line
    assert "is about one image, and" in ask("nlvr2", one, expect=2).line


def test_images_are_ranked_by_a_text(ask: Any, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "found.csv"
    done = ask("retrieval", photos, "--find", "A red square", "--top", 2, "--csv", table, "--json", "-")
    items = json.loads(done.out)["pictures"]
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[0] == ["rank", "path", "score"]
    scores = [float(row[2]) for row in rows[1:]]
    assert len(set(scores)) == 3
    assert scores == sorted(scores, reverse=True)
    assert [item["path"] for item in items] == [row[1] for row in rows[1:3]]
    ask("retrieval", photos, "--find", "A red square", "--csv", table, "--overwrite", "--eval-batch-size", 1)
    again = list(csv.reader(table.read_text().splitlines()))
    assert [row[1] for row in again] == [row[1] for row in rows]


@pytest.mark.parametrize(
    ("task", "words", "line"),
    [
        ("vqa", (), "add --question, or a .csv or .json file of questions"),
        ("vqa", ("--find", "a dog"), "--find is for models of retrieval"),
        ("vqa", ("--question", "Red?", "--question", " "), "--question is empty; expected a text"),
        ("retrieval", ("--find", " "), "--find is empty; expected a text"),
        ("retrieval", ("--find", "a dog", "--threshold", "0.5"), "--find, whose scores are no probabilities"),
        ("vqa", ("--question", "Red?", "--out", "o"), "--out is for label maps"),
        ("retrieval", ("--question", "Red?"), "ranks images by a text, and answers no questions: add --find"),
        ("snli-ve", ("--question", "Red?", "--submission", "s.json"), "--submission is of answers to VQA's questions"),
    ],
)
def test_what_a_model_cannot_be_asked_is_one_line(
    task: str,
    words: tuple[object, ...],
    line: str,
    ask: Any,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {*tmp_path.iterdir(), tmp_path / f"{task}.safetensors"}
    assert line in ask(task, photos, *words, expect=2).line
    assert {*tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("q.csv", "image,label\nphotos/a.png,1\n", "question 1 has no text"),
        ("q.csv", "question\nRed?\n", "question 1 has no image"),
        ("q.csv", "image,question\na.png,  \n", "question 1 has no text"),
        ("q.json", '[{"image": "a.png", "question": ["Red?"]}]', "question of question 1 is ['Red?']; expected a text"),
        ("q.csv", "", "no list of questions"),
        ("q.json", "{}", "no list of questions"),
        ("q.json", "[1]", "no list of questions"),
        ("q.json", "[{", "no valid JSON"),
        ("q.json", '[{"image": "gone.png", "question": "Red?"}]', "gone.png"),
    ],
)
def test_wrong_questions_are_named(name: str, content: str, words: str, ask: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    line = ask("vqa", tmp_path / name, expect=3).line
    assert words in line
    assert name in line or "gone.png" in line


def test_classifiers_are_asked_nothing(photos: Path, tmp_path: Path, segmenter: Path) -> None:
    line = attnbias("predict", "--load-from", segmenter, photos, "--question", "Red?", *CPU, expect=2).line
    assert "--question is for models that are asked in words" in line
    (tmp_path / "q.csv").write_text("image,question\nphotos/a.png,Red?\n")
    line = attnbias("predict", "--load-from", segmenter, photos, tmp_path / "q.csv", *CPU, expect=2).line
    assert "a file of questions is for models that are asked in words" in line


def test_windows_that_leave_pixels_out_are_refused(segmenter: Path, photos: Path) -> None:
    words = ("predict", "--load-from", segmenter, photos, "--slide-crop", "32,32", "--slide-stride", "32,40", *CPU)
    assert "would leave pixels out; take smaller steps" in attnbias(*words, "--mode", "slide", expect=2).line


@pytest.mark.parametrize("command", ["predict", "visualize"])
def test_windows_and_sizes_that_nothing_reads_are_refused(
    command: str, segmenter: Path, photos: Path, tmp_path: Path
) -> None:
    words = (command, *(["absvit-segmentation"] if command == "visualize" else []), "--load-from", segmenter, photos)
    words += ("--out", tmp_path / "out", *CPU)
    refused = attnbias(*words, "--slide-crop", "32,32", expect=2).line
    assert "--slide-crop changes nothing without --mode slide" in refused
    refused = attnbias(*words, "--test-ratios", 1, expect=2).line
    assert "--test-ratios changes nothing without --aug-test" in refused
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--scale", "100000,64"), "'scale' = (100000, 64): expected at most 8,192 pixels"),
        (("--mode", "slide", "--slide-crop", "9000,8"), "expected at most 8,192 pixels"),
        (("--aug-test", "--test-ratios", "1,1e9"), "expected at most 8"),
    ],
)
def test_sizes_that_no_memory_holds_are_refused(
    typed: tuple[str, ...], said: str, segmenter: Path, photos: Path
) -> None:
    assert said in attnbias("predict", "--load-from", segmenter, photos, *typed, *CPU, expect=2).line


def test_no_label_map_is_drawn_of_more_classes_than_a_byte_tells(photos: Path, tmp_path: Path) -> None:
    for number in (255, 256):
        names = tuple(f"class {position}" for position in range(number))
        model = stored(
            *(tmp_path / f"{number}.safetensors", "absvit-segmentation", "mini", names, "segmentation"),
            channels=8,
            aux_channels=4,
        )
        words = ("predict", "--load-from", model, photos, "--top-k", 1, *CPU)
        drawn = attnbias(*words, "--out", tmp_path / str(number), expect=0 if number == 255 else 2)
    assert "--out draws label maps of up to 255 classes" in drawn.line
    assert not (tmp_path / "256").exists()
    attnbias(*words, expect=0)


# From Python ----------------------------------------------------------------------------------------------------------


def test_python_gives_the_label_maps_and_the_areas_of_the_command(
    segmenter: Path, photos: Path, tmp_path: Path
) -> None:
    told = tmp_path / "found.json"
    attnbias("predict", "--load-from", segmenter, photos, "--json", told, *CPU, expect=0)
    items = json.loads(told.read_text())["pictures"]
    model = load(segmenter, device="cpu")
    found = model.predict(photos)
    assert [one.path for one in found] == [item["path"] for item in items]
    for one, item in zip(found, items, strict=True):
        assert one.label_map is not None
        assert np.array_equal(one.label_map, expected(segmenter, Path(item["path"])))
        shares = {each["class"]: each["share"] for each in item["classes"]}
        assert {name: one.top(3)[name] for name in one.labels} == pytest.approx(shares, abs=1e-6)
        original = np.asarray(Image.open(item["path"]).convert("RGB"))
        assert np.array_equal(np.asarray(one.overlay()), paint(original, one.label_map, palette(CLASSES)))
        alone = model.predict(original)  # in memory
        assert alone.label_map is not None
        assert np.array_equal(alone.label_map, one.label_map)
    (photos / "broken.png").write_bytes(b"no image")
    assert len(model.predict(photos, on_bad_image="skip").skipped) == 1
    with pytest.raises(UsageError, match="questions are for models that are asked in words"):
        model.predict(photos, "what is it?")


def test_python_gives_the_answers_of_the_command(ask: Any, root: Path, photos: Path, tmp_path: Path) -> None:
    questions = ["What colour is it?", "A red square?"]
    typed = [word for question in questions for word in ("--question", question)]
    items = json.loads(ask("vqa", photos, *typed, "--json", "-").out)["pictures"]
    model = load(tmp_path / "vqa.safetensors", device="cpu", data_root=root)
    found = model.predict(photos, questions)
    assert [(one.path, one.question) for one in found] == [(item["path"], item["question"]) for item in items]
    for one, item in zip(found, items, strict=True):
        assert one.top(5) == pytest.approx({each["answer"]: each["score"] for each in item["answers"]}, abs=1e-6)
    with Image.open(items[0]["path"]) as opened:
        alone = model.predict(opened.convert("RGB"), questions[0])  # in memory
    assert alone.scores == pytest.approx(found[0].scores, abs=1e-6)
    assert not np.allclose(found[0].scores, found[2].scores, atol=1e-4)
    with pytest.raises(UsageError, match="is asked in words: predict"):
        model.predict(photos)
    with pytest.raises(UsageError, match="second is for statements about two images"):
        model.predict(photos, "Red?", second=photos)


def test_python_judges_pairs_and_ranks_images_as_the_command_does(
    ask: Any, root: Path, photos: Path, tmp_path: Path
) -> None:
    files = sorted(photos.iterdir())[:2]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"image,second_image,statement\n{files[0]},{files[1]},A red square\n")
    (item,) = json.loads(ask("nlvr2", pairs, "--json", "-").out)["pictures"]
    model = load(tmp_path / "nlvr2.safetensors", device="cpu", data_root=root)
    right = np.asarray(Image.open(files[1]).convert("RGB"))
    one = model.predict(files[0], "A red square", second=right)
    assert one.top(2) == pytest.approx({each["answer"]: each["score"] for each in item["answers"]}, abs=1e-6)
    with pytest.raises(UsageError, match="two images"):
        model.predict(files[0], "A red square")
    with pytest.raises(UsageError, match="second has 1 images, expected one for each of 2"):
        model.predict(list(files), "A red square", second=[right])
    items = json.loads(ask("retrieval", photos, "--find", "A red square", "--json", "-").out)["pictures"]
    model = load(tmp_path / "retrieval.safetensors", device="cpu", data_root=root)
    found = sorted(model.predict(photos, "A red square"), key=lambda one: -one.scores[0])
    assert [one.path for one in found] == [item["path"] for item in items]
    assert [float(one.scores[0]) for one in found] == pytest.approx([item["score"] for item in items], abs=1e-5)
    assert found[0].classes == ("A red square",)
