"""`attnbias visualize` asked in words: sheets, overlays, a gallery and answers; what cannot be asked, in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import attnbias
from attnbias.cli.app import app
from attnbias.cli.errors import describe
from attnbias.data.prepare import prepare
from attnbias.data.registry import open_split
from attnbias.data.sets.contract import PrepareOptions
from attnbias.methods.engine.load import load_run, weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.weights.files import write_weights
from tests.helpers.explored import levels, refusal, send

pytest.importorskip("transformers", reason="texts need the extra vision-language")

NAME = "absvit-vision-language"
COLOURS = {"red": 1, "green": 2, "blue": 3}
QUESTION, OTHER = "What colour is it?", "Is it round?"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VQAv2 in its official layout: an image and a question a colour, in train and in val."""
    source = tmp_path_factory.mktemp("vqa")
    for split in ("train2014", "val2014"):
        (source / split).mkdir()
        questions, annotations = [], []
        for colour, number in COLOURS.items():
            Image.new("RGB", (60, 40), colour).save(source / split / f"COCO_{split}_{number:012d}.jpg")
            entry = {"image_id": number, "question_id": number}
            questions.append({**entry, "question": QUESTION})
            answers = [{"answer": colour}] * 10
            annotations.append({**entry, "multiple_choice_answer": colour, "answers": answers})
        (source / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps({"questions": questions}))
        (source / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps({"annotations": annotations}))
    folder = source / "root"
    prepare("vqav2", source, folder, PrepareOptions(settings={"min_answers": 1}))
    return folder


def weights(path: Path, task: Any, classes: tuple[str, ...], **changes: Any) -> Path:
    """A tiny model with random weights, stored as training stores it."""
    method = get_method(NAME)
    small = {"image_size": 32, "fusion_width": 32, "fusion_layers": 1, "dataset": "vqav2"}
    recipe = override(method.named_recipe(f"tiny-{task}").recipe, {**small, **changes})
    torch.manual_seed(0)
    model = method.build_model(recipe, len(classes), task)
    write_weights(path, model.state_dict(), weights_metadata(method, recipe, classes, task))
    return path


@pytest.fixture
def model(root: Path, tmp_path: Path) -> Path:
    return weights(tmp_path / "model.safetensors", "vqa", open_split("vqav2", "val", root).classes)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8)).save(path)
    return path


def visualize(*arguments: object, method: str = "absvit") -> str:
    result = CliRunner().invoke(app, ["visualize", method, *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object, method: str = "absvit") -> str:
    result = CliRunner().invoke(app, ["visualize", method, *map(str, arguments)])
    assert result.exception is not None
    known = describe(result.exception)
    assert known is not None, repr(result.exception)
    assert known[0] == 2
    return known[1]


def content(out: Path) -> dict[str, Any]:
    found = re.search(r'id="page">(.*?)</script>', (out / "gallery.html").read_text(), re.DOTALL)
    assert found
    return json.loads(found.group(1))


def test_questions_of_a_photograph(model: Path, root: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["--question", QUESTION, "--question", OTHER]
    said = visualize(photo, "--task", "vqa", "--load-from", model, "--data-root", root, *asked, "--npz", "--out", out)
    assert "1 images, 4 overlays" in said
    page = content(out)
    assert page["classes"] == [QUESTION, OTHER]
    assert [run["map"].partition(":")[0] for run in page["runs"]] == ["mask", "attention"]
    (item,) = page["items"]
    assert item["labels"] == [0, 1]
    assert item["true"] is None
    first, second = (view["figures"] for view in item["views"])
    assert second == {}  # one model, one answer
    for number in ("0", "1"):
        shares = re.findall(r"(red|green|blue) ([\d.]+)%", first[number])
        assert sorted(name for name, _ in shares) == sorted(COLOURS)
        values = [float(value) for _, value in shares]
        assert values == sorted(values, reverse=True)
    with np.load(out / "maps.npz") as maps:
        assert maps["classes"].tolist() == [QUESTION, OTHER]
        assert maps["maps_1"].shape == (2, 4, 4)
    with Image.open(out / "sheets" / "0000_photo.png") as sheet:
        width, height = sheet.size
        pixels = np.asarray(sheet)
    assert width > 3 * 224
    assert height > 2 * 140
    assert (pixels[:, -250:] < 100).any()  # words beside the images
    assert len(list((out / "overlays").rglob("0000_photo.What_colour_is_it_.png"))) == 2


def test_the_page_of_explore_asks_what_is_typed_on_it(model: Path, root: Path, photo: Path) -> None:
    loaded = attnbias.load(model, data_root=root, device="cpu")

    def levels_of(maps: attnbias.AttentionMaps) -> bytes:
        return np.rint(255 * maps.normalised[0]).astype(np.uint8).tobytes()

    with attnbias.explore(loaded, photo) as page:
        asked = {"model": 0, "map": "attention", "image": send(page.url, "/begin", {"number": 0})["key"]}
        found = send(page.url, "/look", {**asked, "question": QUESTION})
        assert found["scores"] is None
        assert sorted(re.findall("red|green|blue", found["said"])) == sorted(COLOURS)
        assert levels(found) == levels_of(loaded.attention(photo, QUESTION, map="attention"))
        steered = send(page.url, "/look", {**asked, "question": QUESTION, "gain": 50.0})
        assert levels(steered) == levels_of(loaded.attention(photo, prior=QUESTION, gain=50.0))
        assert refusal(page.url, "/look", asked) == (400, "this model is asked in words: type a question")


def test_maps_and_answers_are_the_models(model: Path, root: Path, photo: Path, tmp_path: Path) -> None:
    from attnbias.data.images import read_image
    from attnbias.methods.absvit.vision_language.attention import text_maps

    out = tmp_path / "out"
    arguments = ["--load-from", model, "--data-root", root, "--question", OTHER, "--npz", "--out", out]
    visualize(photo, *arguments, "--map", "attention", "--head", "1")
    loaded = load_run(NAME, str(model), {})
    batch = loaded.method.read_texts(loaded.recipe, [OTHER], root / "vqav2")
    image = loaded.method.transform(loaded.recipe, train=False)(read_image(photo))[None]
    expected = text_maps(loaded.model, image, batch["text_ids"], batch["text_mask"], "attention", 1)
    with np.load(out / "maps.npz") as maps:
        np.testing.assert_allclose(maps["maps_0"], expected.numpy(), rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        best = int(loaded.model({"image": image, **batch}).logits.argmax())
    figures = content(out)["items"][0]["views"][0]["figures"]
    assert figures["0"].startswith(loaded.classes[best])


def test_python_asks_in_words_as_the_command_does(model: Path, root: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = [word for question in (QUESTION, OTHER) for word in ("--question", question)]
    loaded = attnbias.load(model, device="cpu", data_root=root)
    asked += ["--map", loaded.maps[0]]
    visualize(photo, "--load-from", model, "--data-root", root, *asked, "--npz", "--out", out)
    maps = loaded.attention(photo, [QUESTION, OTHER])
    assert (maps.names, maps.kind) == ((QUESTION, OTHER), loaded.maps[0])
    with np.load(out / "maps.npz") as stored:
        assert np.array_equal(maps.to_numpy(), stored["maps_0"])
    page = attnbias.gallery(loaded, Image.open(photo), [QUESTION], maps=[loaded.maps[0]])
    assert (page.images, page.overlays) == (1, 1)
    with pytest.raises(attnbias.UsageError, match="is asked in words"):
        loaded.attention(photo)


def test_texts_kept_as_priors_draw_as_the_questions_themselves(
    model: Path, root: Path, photo: Path, tmp_path: Path
) -> None:
    """`attnbias priors --text`, `visualize --prior text|FILE.npz`, and `attention(prior=...)` in Python."""
    file = tmp_path / "texts.npz"
    told = ["--text", QUESTION, "--text", OTHER, "--data-root", str(root), "--out", str(file), "--gpus", "0"]
    result = CliRunner().invoke(app, ["priors", str(model), *told], catch_exceptions=False)
    assert "texts.npz: 2 texts, vectors of 128 numbers" in result.output
    common = [photo, "--load-from", model, "--data-root", root, "--map", "attention", "--npz"]
    asked = ["--question", QUESTION, "--question", OTHER]
    drawn = {}
    for name, more in {
        "asked": asked,
        "text": [*asked, "--prior", "text"],
        "file": ["--prior", file],
        "strong": [*asked, "--gain", 900],
    }.items():
        visualize(*common, *more, "--out", tmp_path / name)
        with np.load(tmp_path / name / "maps.npz") as maps:
            assert maps["classes"].tolist() == [QUESTION, OTHER]
            drawn[name] = maps["maps_0"]
    assert np.allclose(drawn["text"], drawn["asked"], atol=1e-6)
    assert np.allclose(drawn["file"], drawn["asked"], atol=1e-6)
    assert not np.allclose(drawn["strong"], drawn["asked"], atol=1e-6)
    loaded = attnbias.load(model, device="cpu", data_root=root)
    for prior in ([QUESTION, OTHER], file, attnbias.priors(loaded, tmp_path / "again.npz", texts=[QUESTION, OTHER])):
        maps = loaded.attention(photo, prior=prior, gain=900)
        assert maps.names == (QUESTION, OTHER)
        assert np.allclose(maps.to_numpy().reshape(drawn["strong"].shape), drawn["strong"], atol=1e-6)
    said = refused(*common, "--prior", file, "--question", "Is it red?", "--out", tmp_path / "none")
    assert "texts.npz has no prior of it" in said
    assert "is asked by text; use text, or a file" in refused(*common, *asked, "--prior", "class")
    priors = CliRunner().invoke(app, ["priors", str(model), "--out", str(tmp_path / "p.npz")])
    assert "is asked in words: add --text" in str(priors.exception)


def test_a_split_is_asked_its_own_questions(model: Path, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    visualize("--load-from", model, "--data-root", root, "--out", out, "--limit", 2)
    page = content(out)
    assert page["classes"] == [QUESTION]
    said = [item["views"][0]["figures"]["0"] for item in page["items"]]
    assert [text.partition("; people: ")[2] for text in said] == ["red", "green"]
    visualize("--load-from", model, "--data-root", root, "--out", out, "--overwrite", "--question", OTHER)
    page = content(out)
    assert page["classes"] == [OTHER]
    assert len(page["items"]) == 3


@pytest.mark.parametrize(
    ("task", "classes"), [("snli-ve", ("contradiction", "neutral", "entailment")), ("retrieval", ())]
)
def test_hypotheses_and_captions(task: str, classes: tuple[str, ...], root: Path, photo: Path, tmp_path: Path) -> None:
    model, out = weights(tmp_path / "other.safetensors", task, classes), tmp_path / "out"
    visualize(photo, "--load-from", model, "--data-root", root, "--question", "A red square.", "--out", out)
    figures = content(out)["items"][0]["views"][0]["figures"]
    assert all(name in figures["0"] for name in classes) if classes else figures == {}
    assert (out / "sheets" / "0000_photo.png").is_file()


def test_a_plain_transformer_has_no_mask(root: Path, photo: Path, tmp_path: Path) -> None:
    model, out = weights(tmp_path / "vit.safetensors", "vqa", ("red", "blue"), top_down=False), tmp_path / "out"
    common = [photo, "--load-from", model, "--data-root", root, "--question", QUESTION, "--out", out]
    visualize(*common)
    assert [run["map"].partition(":")[0] for run in content(out)["runs"]] == ["attention"]
    assert "--map mask needs the second pass" in refused(*common, "--overwrite", "--map", "mask")


def test_what_cannot_be_asked_is_one_line(model: Path, root: Path, photo: Path, tmp_path: Path) -> None:
    common = ["--load-from", model, "--data-root", root, "--out", tmp_path / "out"]
    assert refused(photo, *common) == "error: add --question: what shall be asked of these images?"
    assert "is asked in words: use --question" in refused(photo, *common, "--classes", "red")
    assert "has no map 'masc' (did you mean 'mask'?)" in refused(
        photo, *common, "--question", QUESTION, "--map", "masc"
    )
    two = weights(tmp_path / "two.safetensors", "nlvr2", ("False", "True"))
    asked = ["--data-root", root, "--question", QUESTION, "--out", tmp_path / "out"]
    assert "about two images; visualize shows one" in refused(photo, "--load-from", two, *asked)
    from tests.cli.test_visualize import checkpoint

    plain = checkpoint(tmp_path / "csra.safetensors", ("cat", "dog"))
    common = ["--load-from", plain, "--out", tmp_path / "out", "--question", QUESTION]
    assert "is asked by class: use --classes" in refused(photo, *common, method="csra")


def test_help_offers_questions_where_they_are_answered() -> None:
    asked, by_class = (
        CliRunner().invoke(app, ["visualize", method, "--help"], env={"COLUMNS": "200"}).output
        for method in (NAME, "csra")
    )
    assert "--question" in asked
    assert "gradcam" not in asked
    assert "--question" not in by_class
    assert "gradcam" in by_class
