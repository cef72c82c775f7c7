"""A model's classes and a dataset's: matched by names, synonyms or a file; what is not matched is said and kept."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attnbias.data.class_matching import match_by_file, match_by_name
from attnbias.data.errors import DataError
from attnbias.data.images import read_image
from attnbias.data.sets.imagenet import class_names, synsets
from attnbias.methods import METHODS
from attnbias.methods.engine.abilities import AnswersAs
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.maps import attention_maps
from attnbias.methods.engine.registry import get_description, get_method
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import write_model

MODEL = ("tench, Tinca tinca", "gold-fish", "tabby", "Persian cat", "hen", "crane (a bird)")
FOLDERS = ("Gold_Fish", "cat", "tinca tinca", "unicorn")
SIDE = 32


def photos(tmp_path: Path) -> list[Path]:
    made = []
    for number, name in enumerate(FOLDERS * 2):
        path = tmp_path / "zoo" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        made.append(path)
    attnbias("prepare-data", "zoo", cwd=tmp_path, expect=0)
    return sorted(made)


def own_logits(weights: Path, paths: list[Path]) -> torch.Tensor:
    """What the model says in its own classes (N, M)."""
    loaded = load_run("plain", str(weights), {})
    transform = loaded.method.transform(loaded.recipe, train=False)
    with torch.no_grad():
        answer: torch.Tensor = loaded.model(torch.stack([transform(read_image(path)) for path in paths]))
    return answer


def test_names_and_synonyms_of_imagenet_stand_for_folders_and_nothing_is_guessed() -> None:
    for model in (class_names(), synsets()):
        match = match_by_name(model, ("TENCH", "golden_retriever", "tabby cat", "crane", "cat", "n01443537"))
        assert match.members == ((0,), (207,), (281,), (), (), (1,))
        assert match.several == ("crane",)  # the bird, and the machine
        assert match.unknown == ("crane", "cat")
        assert len(match.unused) == 996


def test_a_file_maps_several_classes_to_one(tmp_path: Path) -> None:
    pairs = {"tabby": "cat", "persian cat": "cat", "1": "Gold_Fish", "Tinca tinca": "tinca tinca"}
    (tmp_path / "map.json").write_text(json.dumps(pairs))
    rows = "note,dataset,model\n" + "".join(f"x,{other},{one}\n" for one, other in pairs.items())
    (tmp_path / "map.csv").write_text(rows, encoding="utf-8-sig")
    for name in ("map.json", "map.csv"):
        match = match_by_file(tmp_path / name, MODEL, FOLDERS)
        assert match.members == ((1,), (2, 3), (0,), ())
        assert (match.unknown, match.unused) == (("unicorn",), ("hen", "crane (a bird)"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model,dataset\n\u0661,cat\n", "u0661' is not a class of the model"),
        (f"model,dataset\n{'9' * 5000},cat\n", "9' is not a class of the model"),
        ("model,dataset\ntaby,cat\n", "'taby' is not a class of the model; did you mean 'tabby'"),
        ("model,dataset\ntabby,dog\n", "'dog' is not a class of the dataset"),
        ("model,dataset\ntabby,cat\ntabby,unicorn\n", "'tabby' stands for 'cat' and for 'unicorn'"),
        ("model,dataset\n99,cat\n", "'99' is not a class of the model"),
        ("one,other\ntabby,cat\n", "expected a CSV with the columns model and dataset"),
        ("model,dataset\ntabby\n", "a row begins 'tabby'; expected 2 values"),
        ("model,dataset\ntabby, tabby cat,cat\n", "expected 2 values, names with a comma in quotes"),
        ("model,dataset,dataset\ntabby,cat,unicorn\n", "expected a CSV with the columns model and dataset"),
        ("model,dataset\n", "expected a CSV with the columns model and dataset"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(text: str | None, reason: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "map.csv").write_text(text)
    with pytest.raises(DataError, match=reason) as caught:
        match_by_file(tmp_path / "map.csv", MODEL, FOLDERS)
    assert "\n" not in str(caught.value)


def test_val_scores_a_set_of_other_classes_and_keeps_what_was_matched(tmp_path: Path) -> None:
    paths, weights = photos(tmp_path), write_model(tmp_path / "w.safetensors", "plain", MODEL, image_size=SIDE)
    asked = ("val", "plain", "--load-from", weights, "--dataset", "zoo", "--gpus", 0)
    done = attnbias(*asked, "--csv", "s.csv", "--json", "r.json", cwd=tmp_path, expect=0)
    said = done.out + done.err
    assert "classes matched by names and synonyms: 2 of the model's 6 stand for 2 of the dataset's 4" in said
    assert "classes of the dataset that the model does not have, always wrong: cat, unicorn" in said
    (result,) = json.loads((tmp_path / "r.json").read_text())
    assert result["class_match"]["matched"] == {"Gold_Fish": ["gold-fish"], "tinca tinca": ["tench, Tinca tinca"]}
    assert result["class_match"]["model_without_match"] == ["tabby", "Persian cat", "hen", "crane (a bird)"]
    assert result["classes"] == sorted(FOLDERS)

    attnbias("audit", weights, "zoo", "--faithfulness", 1, "--device", "cpu", "--out", "audit", cwd=tmp_path, expect=0)
    about = json.loads((tmp_path / "audit" / "audit.json").read_text())["about"]
    assert about["class_match"] == result["class_match"]
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "2 of 4 matched by names and synonyms; the model does not have, and is always wrong on: cat, unicorn" in page

    (tmp_path / "map.csv").write_text("model,dataset\ntabby,cat\nPersian cat,cat\ngold-fish,Gold_Fish\nhen,unicorn\n")
    attnbias(*asked, "--class-map", "map.csv", "--csv", "t.csv", cwd=tmp_path, expect=0)
    logits = own_logits(weights, paths).double().numpy()
    best = np.stack([logits[:, 1], logits[:, 2:4].max(1), np.full(len(paths), -np.inf), logits[:, 4]], axis=1)
    expected = np.exp(best) / np.exp(best).sum(1, keepdims=True)
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(path.relative_to(tmp_path / "zoo")) for path in paths]
    written = np.array([[float(row[f"score:{name}"]) for name in sorted(FOLDERS)] for row in rows])
    assert np.allclose(written, expected, atol=2e-6)


@pytest.mark.parametrize(("backbone", "kind"), [("tiny", "gradcam"), ("test_vit", "legrad"), ("test_vit", "layercam")])
def test_a_matched_model_is_explained_by_the_class_that_counts_and_the_given_one_stays(
    backbone: str, kind: str, tmp_path: Path
) -> None:
    weights = write_model(tmp_path / "w.safetensors", "plain", MODEL, image_size=SIDE, backbone=backbone)
    loaded = load_run("plain", str(weights), {})
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    other = loaded.method.answer_as(loaded.model, ((1,), (2, 3), ()))  # type: ignore[attr-defined]
    with torch.no_grad():
        own, told = loaded.model(images), other(images)
    assert own.shape == (3, len(MODEL))
    assert torch.equal(told[:, 1], own[:, 2:4].amax(1))
    assert (told.softmax(1)[:, 2] == 0).all()
    best = torch.stack([torch.ones(3, dtype=torch.int64), own[:, 2:4].argmax(1) + 2], dim=1)
    expected = attention_maps(loaded.method, loaded.model, images, best, kind)
    found = attention_maps(loaded.method, other, images, torch.tensor([0, 1]), kind)
    assert torch.allclose(found[:, 0], expected[:, 0])
    if kind != "legrad":  # whose every block says which of the two is higher
        assert torch.allclose(found[:, 1], expected[:, 1])


def test_the_methods_that_take_a_class_map_are_those_that_can_answer_by_one() -> None:
    for name in METHODS:
        assert get_description(name).matches_classes == isinstance(get_method(name), AnswersAs), name


def test_a_method_with_classes_of_its_own_takes_no_map_and_says_so(tmp_path: Path) -> None:
    photos(tmp_path)
    (tmp_path / "map.csv").write_text("model,dataset\nhen,cat\n")
    weights = write_model(tmp_path / "w.safetensors", "csra", MODEL, image_size=SIDE)
    asked = ("val", "csra", "--load-from", weights, "--dataset", "zoo", "--gpus", 0)
    assert (
        "--class-map is for plain classifiers"
        in attnbias(*asked, "--class-map", "map.csv", cwd=tmp_path, expect=2).line
    )
    assert "knows 6 classes, dataset 'zoo' has 4" in attnbias(*asked, cwd=tmp_path, expect=2).line
    strange = write_model(tmp_path / "s.safetensors", "plain", ("x", "y"), image_size=SIDE)
    asked = ("val", "plain", "--load-from", strange, "--dataset", "zoo", "--gpus", 0)
    assert "or say which class is which with --class-map FILE" in attnbias(*asked, cwd=tmp_path, expect=2).line


def test_a_class_map_is_of_those_of_several_models_that_do_not_answer_in_the_datasets_classes(tmp_path: Path) -> None:
    photos(tmp_path)
    (tmp_path / "map.csv").write_text("model,dataset\nhen,unicorn\ntabby,cat\n")
    plain = write_model(tmp_path / "plain.safetensors", "plain", MODEL, image_size=SIDE)
    names = tuple(sorted(FOLDERS))
    own = write_model(tmp_path / "own.safetensors", "csra", names, image_size=SIDE)
    trained = write_model(tmp_path / "trained.safetensors", "plain", names, image_size=SIDE)
    said = f"answers in the dataset's classes; {tmp_path / 'map.csv'} is not for it"
    common = ("--class-map", tmp_path / "map.csv", "--device", "cpu")

    for number, (first, other) in enumerate(((plain, own), (own, plain), (plain, trained))):
        asked = ("audit", first, "zoo", "--against", other, "--faithfulness", 1, "--out", f"audit{number}", *common)
        done = attnbias(*asked, cwd=tmp_path, expect=0)
        assert (said in done.err) == (other == trained)
        about = json.loads((tmp_path / f"audit{number}" / "audit.json").read_text())["about"]
        assert (about["class_match"] is None) == (first == own)
        assert done.err.count("classes matched by map.csv: 2 of the model's 6") == 1
    columns = ("--load-from", own, "--load-from", f"plain:{plain}", "--dataset", "zoo", "--classes", "cat")
    attnbias("visualize", "csra", *columns, *common, "--limit", 1, "--out", "drawn", cwd=tmp_path, expect=0)
    both = ("--load-from", plain, "--load-from", trained, "--dataset", "zoo", "--limit", 1, "--out", "both")
    assert said in attnbias("visualize", "plain", *both, *common, cwd=tmp_path, expect=0).err

    strange = write_model(tmp_path / "strange.safetensors", "plain", ("x", "y"), image_size=SIDE)
    asked = ("audit", plain, "zoo", "--against", strange, "--out", "no", *common)
    line = attnbias(*asked, cwd=tmp_path, expect=3).err.splitlines()[-1]
    assert "'hen' is not a class of the model" in line
    assert "strange.safetensors" in line
    for command in (
        ("audit", own, "zoo", "--against", own),
        ("val", "csra", "--load-from", "away", "--dataset", "zoo"),
    ):
        assert "--class-map is for plain classifiers" in attnbias(*command, *common, cwd=tmp_path, expect=2).line
    assert not (tmp_path / "no").exists()


def test_visualize_draws_a_set_in_its_own_classes(tmp_path: Path) -> None:
    photos(tmp_path)
    (tmp_path / "map.json").write_text(json.dumps({"hen": "cat", "tabby": "cat", "tench": "unicorn"}))
    weights = write_model(tmp_path / "w.safetensors", "plain", MODEL, image_size=SIDE)
    asked = ("visualize", "plain", "--load-from", weights, "--dataset", "zoo", "--classes", "cat", "--limit", 1)
    attnbias(*asked, "--class-map", "map.json", "--device", "cpu", "--npz", "--out", "g", cwd=tmp_path, expect=0)
    with np.load(tmp_path / "g" / "maps.npz") as maps:
        assert maps["classes"].tolist() == sorted(FOLDERS)
        assert maps["class_0"].tolist() == [sorted(FOLDERS).index("cat")]


def test_objects_of_classes_that_the_model_does_not_have_are_left_out_of_what_is_measured_of_maps_and_counted(
    tmp_path: Path,
) -> None:
    """Its map of such a class is the same everywhere, and says nothing of where it looks."""
    rows = ["path,label,split,box"]
    for number, name in enumerate(FOLDERS * 2):
        pixels = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f'{number}.png,{name},{"val" if number > 3 else "train"},"4,4,9,9"')
    (tmp_path / "zoo.csv").write_text("\n".join(rows) + "\n")
    attnbias("prepare-data", "zoo.csv", cwd=tmp_path, expect=0)
    weights = write_model(tmp_path / "w.safetensors", "plain", MODEL, image_size=SIDE)
    model = ("--dataset", "zoo", "--gpus", 0, "--bias", "--reliance", "--faithfulness", 9)
    asked = ("val", "plain", "--load-from", weights, *model, "--json", "r.json", "--bias-out", "b")
    attnbias(*asked, cwd=tmp_path, expect=0)
    (result,) = json.loads((tmp_path / "r.json").read_text())
    assert result["bias"]["samples"] == result["reliance"]["samples"] == 2
    assert result["faithfulness"]["samples"] == 2
    assert result["bias"]["skipped"] == {"not a class of the model": 2}
    with (tmp_path / "b" / "bias_samples.csv").open(newline="") as file:
        assert {row["class"] for row in csv.DictReader(file)} == {"Gold_Fish", "tinca tinca"}
    attnbias(
        *("audit", weights, "zoo", "--split", "val", "--faithfulness", 9, "--device", "cpu", "--out", "audit"),
        cwd=tmp_path,
        expect=0,
    )
    about = json.loads((tmp_path / "audit" / "audit.json").read_text())["about"]
    assert about["left_out"] == {"not a class of the model": 2}
