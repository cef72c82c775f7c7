"""Images and texts end to end: each task from its files to its figures, published weights, retrieval, maps."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from attnbias.methods.absvit.vision_language import convert, retrieval
from attnbias.methods.absvit.vision_language.attention import text_maps
from attnbias.methods.absvit.vision_language.method import METHOD
from attnbias.methods.absvit.vision_language.model import VisionLanguageModel
from attnbias.methods.absvit.vision_language.recipe import RECIPES, VisionLanguageRecipe
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.resolve import resolve_run
from attnbias.methods.engine.training.starting_weights import initial_weights
from attnbias.weights.errors import WeightsError
from tests.helpers.command_line import attnbias
from tests.helpers.text_samples import make_images, samples, texts

SMALL = ["--image-size", "32", "--fusion-width", "32", "--fusion-layers", "1", "--batch-size", "4", "--epochs", "4"]
RUN = ["--gpus", "0", "--threads", "1", "--log-every", "1"]
COLOURS = ("red", "green", "blue", "white")


def write(path: Path, content: Any, *, lines: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, content)) if lines else json.dumps(content))


# Each task on images and texts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["drawn", pytest.param("photographs", marks=pytest.mark.slow)])
def fixtures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pieces of each set in their own files: drawn squares that texts name, and, where they lie, real ones, which
    tests/data/test_language_samples.py reads."""
    if request.param == "photographs":
        return Path(request.getfixturevalue("real_data")) / "vl_fixtures"
    folder = tmp_path_factory.mktemp("pieces")

    def square(colour: str, *place: str) -> None:
        path = folder.joinpath("images", *place)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), colour).save(path)

    questions, answers = [], []
    for number, colour in enumerate(COLOURS[:3]):
        square(colour, "vqav2", f"COCO_train2014_{number:012}.jpg")
        questions.append({"image_id": number, "question": "Which colour?", "question_id": 458752000 + number})
        said = [{"answer": word, "answer_id": i} for i, word in enumerate([colour] * 9 + ["grey"], start=1)]
        answers.append({"image_id": number, "question_id": 458752000 + number, "answers": said})
    write(folder / "vqav2" / "questions.json", {"questions": questions})
    write(folder / "vqav2" / "annotations.json", {"annotations": answers})

    statements = []
    for number, colour in enumerate(COLOURS):
        square(colour, "visual_entailment", f"{number}.jpg")
        for word, label in zip(COLOURS, ("entailment", "neutral", "contradiction", "neutral"), strict=True):
            said = {"sentence1": f"A {colour} square.", "sentence2": f"Is it {word}?", "gold_label": label}
            statements.append({"Flickr30K_ID": str(number), **said})
    write(folder / "visual_entailment" / "sample_pairs.jsonl", statements, lines=True)

    pairs = []
    for number, colour in enumerate(COLOURS):
        square(colour, "nlvr2", f"dev-850-{number}-img0.png")
        square("grey", "nlvr2", f"dev-850-{number}-img1.png")
        for k, label in enumerate(("True", "False")):
            said = {"sentence": f"The {('left', 'right')[k]} one is {colour}.", "label": label}
            pairs.append({"identifier": f"dev-850-{number}-{k}", **said})
    write(folder / "nlvr2" / "tiny-dev.json", pairs, lines=True)

    for number, colour in enumerate((*COLOURS, "grey"), start=1):
        square(colour, "flickr30k", f"{number}.jpg")
        captions = [f"[/EN#{k}/other A {colour} square] seen {k} times ." for k in range(5)]
        path = folder / "flickr30k" / "sentences" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(captions))
    return folder


def vqa_source(fixtures: Path, source: Path) -> list[str]:
    """VQAv2's official layout with its three questions in train and in val."""
    questions = json.loads((fixtures / "vqav2" / "questions.json").read_text())
    entries = json.loads((fixtures / "vqav2" / "annotations.json").read_text())["annotations"]
    for entry in entries:  # the fixture leaves out what the official files have
        entry["multiple_choice_answer"] = Counter(a["answer"] for a in entry["answers"]).most_common(1)[0][0]
    for split in ("train2014", "val2014"):
        write(source / f"v2_OpenEnded_mscoco_{split}_questions.json", questions)
        write(source / f"v2_mscoco_{split}_annotations.json", {"annotations": entries})
        (source / split).mkdir()
        for image in (fixtures / "images" / "vqav2").iterdir():
            (source / split / f"COCO_{split}_{image.stem[-12:]}.jpg").symlink_to(image)
    return ["--min-answers", "1"]


def snli_ve_source(fixtures: Path, source: Path) -> list[str]:
    """SNLI-VE's layout, the same 16 hypotheses in every split."""
    source.mkdir()
    for split in ("train", "dev", "test"):
        shutil.copy(fixtures / "visual_entailment" / "sample_pairs.jsonl", source / f"snli_ve_{split}.jsonl")
    (source / "flickr30k-images").symlink_to(fixtures / "images" / "visual_entailment")
    return []


def nlvr2_source(fixtures: Path, source: Path) -> list[str]:
    """NLVR2's layout, the same eight statements in train and dev."""
    rows = [json.loads(line) for line in (fixtures / "nlvr2" / "tiny-dev.json").read_text().splitlines()]
    write(source / "nlvr2" / "data" / "dev.json", rows, lines=True)
    write(source / "nlvr2" / "data" / "train.json", [{**row, "directory": 0} for row in rows], lines=True)
    for folder in (source / "dev", source / "dev" / "0"):
        folder.mkdir()
        for image in (fixtures / "images" / "nlvr2").glob("dev-*"):
            (folder / image.name).symlink_to(image)
    return []


def flickr30k_source(fixtures: Path, source: Path) -> list[str]:
    """Karpathy's layout: five images with five captions each, in every split."""
    images = []
    for file in sorted((fixtures / "flickr30k" / "sentences").glob("*.txt")):
        # Phrases are marked as [/EN#12/people Two men].
        lines = [re.sub(r"\[/EN\S+ ([^]]*)\]", r"\1", line) for line in file.read_text().splitlines()]
        sentences = [{"raw": line.strip()} for line in lines]
        images += [
            {"filename": f"{file.stem}.jpg", "split": s, "sentences": sentences} for s in ("train", "val", "test")
        ]
    write(source / "dataset_flickr30k.json", {"images": images})
    (source / "flickr30k-images").symlink_to(fixtures / "images" / "flickr30k")
    return []


TASKS: dict[str, tuple[str, Callable[[Path, Path], list[str]], str]] = {
    "vqa": ("vqav2", vqa_source, "vqa_score"),
    "snli-ve": ("snli-ve", snli_ve_source, "accuracy"),
    "nlvr2": ("nlvr2", nlvr2_source, "accuracy"),
    "retrieval": ("flickr30k", flickr30k_source, "r1_sum"),
}


@pytest.mark.parametrize("task", TASKS)
def test_prepare_train_and_val(task: str, fixtures: Path, tmp_path: Path) -> None:
    """`attnbias train absvit --task TASK` learns its samples, and `val` finds the figures of the run again."""
    dataset, lay_out, measure = TASKS[task]
    options = lay_out(fixtures, tmp_path / "source")
    root, run = tmp_path / "root", tmp_path / "run"
    attnbias("prepare-data", dataset, "--source", tmp_path / "source", "--root", root, *options, expect=0)
    recipe = ["--task", task, "--recipe", f"tiny-{task}", *SMALL]
    attnbias("train", "absvit", *recipe, *RUN, "--data-root", root, "--out", run, expect=0)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, last = (
        fmean(line["loss"] for line in lines if line["split"] == "train" and line["epoch"] == epoch) for epoch in (1, 4)
    )
    assert last < first
    table = tmp_path / "val.json"
    found = ["--load-from", run, "--data-root", root, "--gpus", "0"]
    attnbias("val", "absvit", *found, "--json", table, "--store", expect=0)
    assert json.loads(table.read_text())[0]["measures"][measure] == pytest.approx(
        max(line[measure] for line in lines if measure in line), rel=1e-6
    )
    assert ("top1" if measure == "accuracy" else measure) in attnbias("compare", run, expect=0).out
    rows = attnbias("val", "absvit", *found, "--csv", tmp_path / "rows.csv")
    if task == "retrieval":
        assert "keeps no row per image" in rows.line
    elif task == "vqa":
        said = json.loads(next((run / "evaluations").rglob("answers.json")).read_text())
        assert [answer["question_id"] for answer in said] == [458752000, 458752001, 458752002]
        header, first_row, *_ = (tmp_path / "rows.csv").read_text().splitlines()
        assert header == "path,id,text,answer"
        first_question = json.loads((fixtures / "vqav2" / "questions.json").read_text())["questions"][0]["question"]
        assert first_row.endswith(f"{first_question},{said[0]['answer']}")


# The model ------------------------------------------------------------------------------------------------------------


def small(task: str = "vqa", **changes: Any) -> VisionLanguageRecipe:
    """A recipe of four blocks on 32 pixels, without dropout."""
    name = f"tiny-{task}"
    fields = {"image_size": 32, "fusion_width": 32, "fusion_layers": 2, "max_text_length": 10, "vocabulary": 50}
    recipe = override(RECIPES[name].recipe, {**fields, "dropout": 0.0, "text_dropout": 0.0, **changes})
    assert isinstance(recipe, VisionLanguageRecipe)
    return recipe


def built(recipe: VisionLanguageRecipe, classes: int = 5) -> VisionLanguageModel:
    """A model whose text steers visibly: fresh prompts are all but zero."""
    torch.manual_seed(3)
    model = METHOD.build_model(recipe, classes, recipe.task)
    assert isinstance(model, VisionLanguageModel)
    if recipe.top_down:
        torch.nn.init.normal_(model.steered.prompt_decoder.weight)
    return model.eval()


@torch.no_grad()
def test_feedback_of_one_token_is_the_programs_matrix() -> None:
    """The paper's s = 5 (z * mask) p p^T through the decoders, token by token."""
    vision = built(small()).steered
    tokens, prior = torch.randn(3, 17, 128), torch.randn(3, 128)
    outer = prior[:, :, None] * prior[:, None]  # (B, C, C)
    signal = 5 * (tokens * vision.prior_mask(tokens, prior)) @ outer
    expected = []
    for decoder in reversed(vision.decoders):
        signal, topdown = decoder(signal)
        expected.append(topdown)
    for ours, theirs in zip(vision.signals(tokens, prior), reversed(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_of_a_text_steers() -> None:
    """The mean of all positions sees padding; the mean of the words and the end token do not."""
    ids, mask = texts(6)
    longer = torch.nn.functional.pad(ids, (0, 4), value=1), torch.nn.functional.pad(mask, (0, 4))
    for pool, same in (("all", False), ("masked", True), ("end", True)):
        model = built(small(prompt_pool=pool))
        assert torch.allclose(model.read(ids, mask).prompt, model.read(*longer).prompt, atol=1e-5) == same, pool
    text = built(small(prompt_pool="end")).read(ids, mask)
    torch.testing.assert_close(text.prompt, text.states[torch.arange(6), mask.sum(1) - 1])


@torch.no_grad()
@pytest.mark.parametrize("top_down", [True, False])
def test_retrieval_scores_each_pair_as_training_does(top_down: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached texts, shared first passes, cut padding and parts of any size change no score."""
    model, batch = built(small("retrieval", top_down=top_down)), samples("retrieval")
    ids, mask = texts(11)
    expected = torch.empty(4, 11)
    for position in range(11):
        one = {"text_ids": ids[position].expand(4, -1), "text_mask": mask[position].expand(4, -1)}
        expected[:, position] = model({**batch, **one}).logits[:, 0]
    for pairs in (128, 3):
        monkeypatch.setattr(retrieval, "PAIRS", pairs)
        scores = retrieval.score_pairs(model, batch["image"], ids, mask)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert expected.std(1).min() > 1e-4  # captions differ


def test_matching_head_shares_its_row_with_the_ranking_and_does_not_train_it() -> None:
    model, batch = built(small("retrieval")), samples("retrieval")
    answers = model(batch, match=torch.tensor([1, 1, 0, 0]))
    assert answers.matching is not None
    answers.matching.sum().backward()
    assert model.rank_output.weight.grad is None
    assert model.itm_score.fc.weight.grad is None
    assert model.cross_modal_text_pooler.dense.weight.grad is not None
    with torch.no_grad():
        joint = torch.randn(3, 64)
        torch.testing.assert_close(model.match(joint)[:, 1:], model.rank_output(joint))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("top_down", [True, False])
def test_every_parameter_of_the_optimiser_learns(task: str, top_down: bool) -> None:
    """No part hangs loose: several processes need a gradient for each parameter."""
    recipe = small(task, top_down=top_down)
    model = built(recipe).train()
    METHOD.loss(model, samples(task), recipe, recipe.task)["loss"].backward()
    held = {id(p) for group in METHOD.param_groups(model, recipe) for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in held) == (parameter.grad is not None) == parameter.requires_grad, name


def test_frozen_backbone_trains_steering_fusion_and_head_alone() -> None:
    recipe = small(freeze_backbone=True)
    learning = {name.split(".")[0] for name, p in built(recipe).named_parameters() if p.requires_grad}
    steering = {
        name.split(".")[1] for name, p in built(recipe).vit_model.named_parameters(prefix="v") if p.requires_grad
    }
    assert "text_transformer" not in learning
    assert steering == {"decoders", "prompt_decoder"}
    assert {"vqa_classifier", "cross_modal_text_layers", "token_type_embeddings"} <= learning


# Where it looks -------------------------------------------------------------------------------------------------------


def test_maps_follow_the_text() -> None:
    model, images = built(small()), make_images(1).expand(3, -1, -1, -1)
    ids, mask = texts(3)
    for kind in METHOD.maps:
        maps = text_maps(model, images, ids, mask, kind)
        assert maps.shape == (3, 4, 4)
        assert maps.min() >= 0
        assert not torch.allclose(maps[0], maps[1], rtol=1e-3), kind
    attention = text_maps(model, images, ids, mask, "attention")
    heads = torch.stack([text_maps(model, images, ids, mask, "attention", head) for head in range(4)])
    torch.testing.assert_close(heads.sum(0), attention)
    assert attention.sum((1, 2)).max() < 4  # each head's weights sum to 1 with the class token's own
    assert text_maps(model, images, ids, mask, "mask").max() <= 1


def test_plain_vit_looks_at_the_same_places_whatever_is_asked() -> None:
    model, images = built(small(top_down=False)), make_images(1).expand(3, -1, -1, -1)
    ids, mask = texts(3)
    maps = text_maps(model, images, ids, mask, "attention")
    torch.testing.assert_close(maps[0], maps[1])
    with pytest.raises(UsageError, match="needs the second pass"):
        text_maps(model, images, ids, mask, "mask")
    with pytest.raises(UsageError, match="heads 0 to 3"):
        text_maps(model, images, ids, mask, "attention", head=4)


# Weights --------------------------------------------------------------------------------------------------------------


def lightning_file(path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what Lightning 1.3 writes: the callbacks' states are keyed by classes that are not installed here."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": name})
    parts = name.split(".")
    with monkeypatch.context() as patch:
        for end in range(1, len(parts) + 1):
            patch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        vars(sys.modules[name])["ModelCheckpoint"] = callback
        content = {"state_dict": state, "epoch": 9, "global_step": 100, "pytorch-lightning_version": "1.3.2"}
        content |= {"callbacks": {callback: {"monitor": "val/the_metric", "best_model_score": torch.tensor(0.7)}}}
        torch.save(content | {"hyper_parameters": {"config": {"vit": "absvit", "datasets": ["vqa"]}}}, path)


@pytest.mark.parametrize("task", TASKS)
def test_weights_go_out_under_published_names_and_come_back(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = override(small(task), {"fusion_mlp": 2})
    model = built(recipe, classes=0 if task == "retrieval" else 5)
    published = convert.publish(model.state_dict())
    assert published[convert.POSITION_IDS].shape == (1, 514)
    assert published["vit_model.head.weight"].shape == (1000, 128)
    file = tmp_path / "epoch=9.ckpt"
    lightning_file(file, published, monkeypatch)
    flags = {"image_size": 32, "fusion_heads": 4, "prompt_pool": recipe.prompt_pool, "dataset": recipe.dataset}
    loaded = load_run("absvit-vision-language", str(file), flags, recipe_name=f"tiny-{task}", data_root=tmp_path)
    assert loaded.task == task
    assert isinstance(loaded.recipe, VisionLanguageRecipe)
    for name in (
        "vocabulary",
        "fusion_width",
        "fusion_layers",
        "fusion_mlp",
        "architecture",
        "text_encoder",
        "top_down",
        "task",
    ):
        assert getattr(loaded.recipe, name) == getattr(recipe, name), name
    batch = samples(task)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(batch).logits, model(batch).logits)


def test_starts_from_vision_pretraining_and_from_other_tasks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = built(small())
    vision = {name: value + 1 for name, value in source.vit_model.state_dict().items()}
    vision = {name: value for name, value in vision.items() if "decode" not in name}
    vision |= {"prompt": torch.ones(128), "head.weight": torch.ones(1000, 128), "head.bias": torch.ones(1000)}
    recipe = small("nlvr2", seed=1)
    model = built(recipe)
    METHOD.load_backbone(model, recipe, vision, tmp_path / "vision.pth")
    torch.testing.assert_close(model.vit_model.norm.weight, vision["norm.weight"])
    assert "10 tensors start fresh: vit_model.decoders.0.linear.weight" in caplog.text
    METHOD.load_backbone(model, recipe, convert.publish(source.state_dict()), tmp_path / "vqa.ckpt")
    types, given = model.token_type_embeddings.weight, source.token_type_embeddings.weight
    torch.testing.assert_close(types, torch.cat((given, given[1:])))
    assert "6 tensors start fresh: nlvr2_classifier.0.weight" in caplog.text
    with pytest.raises(WeightsError, match="holds neither a ViT nor a whole vision-language model"):
        METHOD.load_backbone(model, recipe, {"fc.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"cls_token.* have another shape"):
        METHOD.load_backbone(model, recipe, {**vision, "cls_token": torch.ones(1, 1, 5)}, tmp_path / "other.pth")


def test_text_encoder_starts_from_a_folder_and_nothing_is_fetched(tmp_path: Path) -> None:
    recipe = small(text_weights=str(tmp_path))
    source = built(recipe).text_transformer
    with pytest.raises(WeightsError, match=rf"no text encoder '{tmp_path}' on this machine.*hf download"):
        METHOD.load_parts(built(recipe), recipe)
    torch.nn.init.ones_(source.get_parameter("embeddings.LayerNorm.bias"))
    source.save_pretrained(tmp_path)  # type: ignore[operator]
    model = built(recipe)
    METHOD.load_parts(model, recipe)
    for name, value in model.text_transformer.state_dict().items():
        torch.testing.assert_close(value, source.state_dict()[name])
    with pytest.raises(WeightsError, match="is of another size than --text-encoder and --vocabulary say"):
        METHOD.load_parts(built(small(vocabulary=60)), recipe)


def test_from_scratch_starts_the_text_encoder_at_random_too() -> None:
    run = resolve_run(METHOD, "vqa", {}, {"from_scratch": True})
    assert (run.request.recipe.init, run.request.recipe.text_weights) == ("none", None)
    with pytest.raises(UsageError, match="--from-scratch starts at random, and --text-weights does not"):
        resolve_run(METHOD, "vqa", {"text_weights": "roberta-base"}, {"from_scratch": True})


def test_what_the_recipe_itself_starts_is_not_called_new(tmp_path: Path) -> None:
    recipe = small(text_weights=str(tmp_path / "text"))
    source = built(recipe)
    source.text_transformer.save_pretrained(tmp_path / "text")  # type: ignore[operator]
    torch.save(source.vit_model.state_dict(), tmp_path / "vision.pth")
    words, _ = initial_weights(
        METHOD,
        built(recipe),
        recipe,
        load_from=None,
        backbone_weights=str(tmp_path / "vision.pth"),
        reset_head=False,
        trust=False,
        classes=("yes", "no"),
        task="vqa",
    )
    assert "; new: " in words
    assert "text_transformer" not in words


def test_missing_transformers_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'attnbias\[vision-language\]'"):
        METHOD.build_model(small(), 5, "vqa")


# Recipes --------------------------------------------------------------------------------------------------------------


def test_a_task_picks_its_recipe(tmp_path: Path) -> None:
    assert METHOD.default_recipe(None, "nlvr2") == "nlvr2"
    assert METHOD.default_recipe(None, "retrieval") == "retrieval-flickr30k"
    assert METHOD.default_recipe("coco-captions", "retrieval") == "retrieval-coco"
    assert METHOD.default_recipe() == "vqa"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 225}, "image_size 225 is not a multiple of its patch size, 16"),
        ({"fusion_heads": 7}, "fusion_width 768 is not a multiple of fusion_heads, 7"),
        ({"task": "retrieval"}, "false_texts must be 1 or more"),
    ],
)
def test_recipes_that_contradict_themselves(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        override(VisionLanguageRecipe(), changes)


def test_published_settings() -> None:
    """The program's table: task settings, and what its README changes."""
    table = {
        "vqa": ("vqav2", 432, 10, 1e-5, 50, 10, 3, 50, 0, True, 0.3, "all"),
        "snli-ve": ("snli-ve", 64, 5, 2e-6, 10, 5, 1, 50, 0, False, 0, "end"),
        "nlvr2": ("nlvr2", 256, 10, 1e-5, 10, 5, 1, 50, 0, False, 0, "end"),
        "retrieval-flickr30k": ("flickr30k", 512, 10, 1e-5, 5, 10, 3, 40, 15, True, 0, "end"),
        "retrieval-coco": ("coco-captions", 512, 10, 5e-6, 5, 5, 1, 40, 15, False, 0, "end"),
    }
    fields = ("dataset", "batch_size", "epochs", "lr", "lr_head", "lr_fusion", "lr_feedback", "max_text_length")
    fields += ("false_texts", "rand_augment", "reconstruction_weight", "prompt_pool")
    for name, values in table.items():
        for recipe in (RECIPES[name].recipe, RECIPES[f"{name}-vit"].recipe):
            assert tuple(getattr(recipe, field) for field in fields) == values, name
            assert (recipe.image_size, recipe.weight_decay, recipe.seed) == (224, 0.01, 0)
