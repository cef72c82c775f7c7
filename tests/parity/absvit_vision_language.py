"""Runners for the vision-language goldens of AbSViT: models, losses, gradients, groups, schedules, maps, measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnbias.methods.absvit.recipe import ARCHITECTURES
from attnbias.methods.absvit.vision_language import attention, convert, loss, metrics
from attnbias.methods.absvit.vision_language.groups import frozen, grouped
from attnbias.methods.absvit.vision_language.method import METHOD
from attnbias.methods.absvit.vision_language.model import CLASSIFIERS, VisionLanguageModel
from attnbias.methods.absvit.vision_language.recipe import RECIPES, TEXT_ENCODERS, VisionLanguageRecipe
from attnbias.methods.absvit.vision_language.text import build_text
from attnbias.methods.absvit.vision_language.vision import TextSteeredViT, build_vision
from attnbias.methods.engine.outline import undrawn
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.training.optim import apply_schedule, build_optimizer
from tests.parity import absvit_vision_language_data
from tests.parity.comparison import Tolerance
from tests.parity.golden_case import Golden, Settings, UncomputedSetting

TASKS = {
    ("vqa",): "vqa",
    ("snli",): "snli-ve",
    ("nlvr2",): "nlvr2",
    ("itm", "irtr"): "retrieval",
}
"""Losses that the program sums -> our tasks."""
ANSWERS = {"snli-ve": 3, "nlvr2": 2, "retrieval": 1}
DRAWN = 48
"""Values of a parameter that a trajectory's case shows."""


# Settings -------------------------------------------------------------------------------------------------------------


def recipe_of(config: Settings) -> VisionLanguageRecipe:
    """The program's configuration as our recipe; what our models have one value of is held to it."""
    losses = tuple(name for name, weight in config["loss_names"].items() if weight)
    if losses not in TASKS:
        raise UncomputedSetting(f"setting 'loss_names' sums {losses}; known: {list(TASKS)}")
    task = TASKS[losses]
    named = {"retrieval": "retrieval-flickr30k"}.get(task, task)
    kind, architecture = architecture_of(config["vit"])
    vision = ARCHITECTURES[architecture]
    config.only(
        is_vit=True,
        is_clip=False,
        is_swin=False,
        feedback=kind == "absvit",
        patch_size=vision["patch_size"],
        input_image_embed_size=vision["embed_dim"],
        draw_false_image=int(task == "retrieval"),
        image_only=False,
        precision=32,
        fast_dev_run=False,
    )
    config.choice("tokenizer", dict.fromkeys(("roberta-base", "roberta-large")))  # any other one is a BERT's
    scheduler = "cosine" if config["decay_power"] == "cosine" else "polynomial"
    fields = {
        "image_size": config["image_size"],
        "max_text_length": config["max_text_len"],
        "false_texts": config["draw_false_text"],
        "epochs": config["max_epoch"],
        "steps": config.get("total_steps", config["max_steps"]),
        "batch_size": config["batch_size"],
        "optimizer": config["optim_type"],
        "lr": config["learning_rate"],
        "lr_head": config["lr_mult_head"],
        "lr_fusion": config["lr_mult_cross_modal"],
        "lr_feedback": config["lr_mult_feedback"],
        "weight_decay": config["weight_decay"],
        "scheduler": scheduler,
        "warmup_steps": config["warmup_steps"],
        "power": 1.0 if scheduler == "cosine" else config["decay_power"],
        "min_lr": config["end_lr"],
        "freeze_backbone": config["freeze_backbone"],
        "legacy_groups": True,
        "architecture": architecture,
        "top_down": kind == "absvit",
        "fusion_width": config["hidden_size"],
        "fusion_heads": config["num_heads"],
        "fusion_layers": config["num_top_layer"],
        "fusion_mlp": config["mlp_ratio"],
        "dropout": config["drop_rate"],
        "vocabulary": config["vocab_size"],
    }
    recipe = RECIPES[named].recipe
    assert isinstance(recipe, VisionLanguageRecipe)
    weight = config["var_loss"]
    if recipe.reconstruction_weight:
        fields["reconstruction_weight"] = weight
    return override(recipe, fields)


def architecture_of(name: str) -> tuple[str, str]:
    """absvit_tiny_patch16_224 -> absvit, tiny_patch16."""
    kind, size = name.removesuffix("_224").split("_", 1)
    if kind not in ("vit", "absvit") or size not in ARCHITECTURES:
        raise UncomputedSetting(f"setting 'vit' is {name!r}; known: vit_SIZE_224, absvit_SIZE_224")
    return kind, size


def model_of(config: Settings, state: dict[str, Tensor] | None = None) -> VisionLanguageModel:
    """The model that the configuration describes, without dropout, with published weights where they are given."""
    recipe = recipe_of(config)
    given = config.get("text_model")
    sizes = dict(given) if given else encoder_sizes(config["input_text_embed_size"])
    config.only(input_text_embed_size=sizes["hidden_size"])
    if given:
        given.only(vocab_size=recipe.vocabulary)
    vision = build_vision(
        recipe.architecture,
        recipe.image_size,
        top_down=recipe.top_down,
        text_width=sizes["hidden_size"],
        gain=recipe.feedback_gain,
    )
    sizes = {name: value for name, value in sizes.items() if name != "vocab_size"}
    model = VisionLanguageModel(
        recipe.task,
        vision,
        build_text(recipe.vocabulary, 0.0, **sizes),
        width=recipe.fusion_width,
        heads=recipe.fusion_heads,
        layers=recipe.fusion_layers,
        mlp=recipe.fusion_mlp,
        dropout=0.0,
        answers=ANSWERS.get(recipe.task, config["vqav2_label_size"]),
        prompt_pool=recipe.prompt_pool,
    )
    if state is not None:
        model.load_state_dict(METHOD.convert(state))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen(name, recipe))
    return model


def encoder_sizes(width: int) -> dict[str, int]:
    if width == 64:  # the small cases whose configuration does not tell
        return {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return next(sizes for sizes in TEXT_ENCODERS.values() if sizes["hidden_size"] == width)


def batch_of(case: Golden, targets: dict[str, Any] | None, step: str = "") -> dict[str, Any]:
    """A batch in our layout, of the arrays whose names end in `step`."""
    recipe = recipe_of(case.config)
    ids, mask = tokens(case, f"text{step}")
    false_texts = sum(name.startswith("false_text_") for name in case.inputs)
    case.config.only(max_text_len=ids.shape[1])
    if false_texts:
        case.config.only(draw_false_text=false_texts)
    batch = {"text_ids": ids, "text_mask": mask, "errors": [], "index": torch.arange(len(ids))}
    images = {"image": f"image{step}"}
    if recipe.task == "nlvr2":
        images = {"image": f"image_0{step}", "image2": f"image_1{step}"}
    elif f"false_image_0{step}" in case.inputs:
        images["false_image"] = f"false_image_0{step}"
    batch |= {name: torch.from_numpy(case.input(key)) for name, key in images.items()}
    false = [
        tokens(case, f"false_text_{i}{step}") for i in range(recipe.false_texts) if f"false_text_{i}" in case.inputs
    ]
    if false:
        batch["false_text_ids"], batch["false_text_mask"] = (
            torch.stack(part, dim=1) for part in zip(*false, strict=True)
        )
    if targets is not None:
        batch["target"] = target_of(recipe, targets, len(ids), case.config["vqav2_label_size"])
    return batch


def tokens(case: Golden, name: str) -> tuple[Tensor, Tensor]:
    ids, mask = case.input(name)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def target_of(recipe: VisionLanguageRecipe, targets: dict[str, Any], count: int, answers: int) -> Tensor:
    if recipe.task == "vqa":
        scores = torch.zeros(count, answers)
        for row, labels, values in zip(scores, targets["vqa_labels"], targets["vqa_scores"], strict=True):
            for label, value in zip(labels, values, strict=True):
                row[label] = value
        return scores
    if recipe.task == "retrieval":
        return torch.zeros(count, dtype=torch.int64)
    return torch.tensor([int(value) for value in targets.get("answers", targets.get("labels"))])


def first_half(count: int) -> Tensor:
    """Which samples are true pairs where the program's shuffle is switched off."""
    return (torch.arange(count) < count // 2).long()


# Models ---------------------------------------------------------------------------------------------------------------


def parts(model: VisionLanguageModel, batch: dict[str, Any]) -> dict[str, Any]:
    """What the program's `infer` gives of the first image."""
    text = model.read(batch["text_ids"], batch["text_mask"])
    states: list[Tensor] = []
    image_tokens = model.look(batch["image"], text.prompt, states)
    pair = model.fuse(text, image_tokens)
    found = {"cls_feats": pair.joint, "text_feats": pair.text, "image_feats": pair.image, "vit_tokens": image_tokens}
    if isinstance(model.vit_model, TextSteeredViT):
        found["prompt"] = text.prompt
        found["errors"] = model.vit_model.reconstruction_errors(states)
    return found


@torch.no_grad()
def full(case: Golden) -> dict[str, Any]:
    model, batch = model_of(case.config, case.state_dict()).eval(), batch_of(case, None)
    found = parts(model, batch)
    if "errors" in found:
        found["var_loss_times_0.3"] = case.config["var_loss"] * found.pop("errors").sum()
    if model.task == "retrieval":
        text = model.read(batch["text_ids"], batch["text_mask"])
        found["rank_score"] = model.rank(model.survey(batch["image"]), text, torch.arange(len(batch["image"])))
        found["itm_logits"] = model.match(found["cls_feats"])
    else:
        found["logits"] = model(batch).logits
    return found


def tiny(case: Golden) -> dict[str, Any]:
    recipe, model = recipe_of(case.config), model_of(case.config, case.state_dict())
    batch = batch_of(case, case.config["targets"])
    match = first_half(len(batch["target"])) if recipe.task == "retrieval" else None

    def terms() -> tuple[Any, dict[str, Tensor]]:
        weight = recipe.reconstruction_weight if recipe.top_down else 0.0
        answers = model(batch, match=match, reconstruct=weight > 0)
        return answers, loss.task_loss(answers, batch["target"], recipe.task, weight, match)

    with torch.no_grad():
        found = parts(model.eval(), batch)
        answers, evaluated = terms()
    found.pop("errors", None)
    if recipe.task == "retrieval":
        found |= {"itm_logits": answers.matching, "itm_labels": match}
    else:
        name = CLASSIFIERS[recipe.task]
        found |= {f"{name}_logits": answers.logits}
        found["vqa_targets" if name == "vqa" else f"{name}_labels"] = batch["target"]
    _, trained = terms() if model.train() else ({}, {})
    trained["loss"].backward()
    return found | {
        "eval_losses": named(evaluated, recipe),
        "train_losses": named(trained, recipe),
        "total_loss": trained["loss"].detach(),
        "gradients": gradients(model, case.outputs["gradients"]["value"]["per_param_norm"]),
    }


def named(terms: dict[str, Tensor], recipe: VisionLanguageRecipe) -> dict[str, float]:
    """Our terms under the program's names."""
    names = {
        "answer": f"{CLASSIFIERS.get(recipe.task)}_loss",
        "ranking": "irtr_loss",
        "matching": "itm_loss",
        "reconstruction": "var_loss",
    }
    return {names[name]: value.item() for name, value in terms.items() if name != "loss"}


def gradients(model: VisionLanguageModel, shown: dict[str, Any]) -> dict[str, Any]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    published = [name for name in convert.publish(model.state_dict()) if name != convert.POSITION_IDS]
    return {
        "total_norm": torch.stack([value.norm() for value in found.values()]).norm().item(),
        "n_with_grad": len(found),
        "params_without_grad": [name for name in published if name not in found],
        "per_param_norm": {name: found[name].norm().item() for name in shown},
    }


def trajectory(case: Golden) -> dict[str, Any]:
    recipe, model = recipe_of(case.config), model_of(case.config, case.state_dict()).train()
    optimizer = build_optimizer(METHOD.param_groups(model, recipe), recipe)
    factors = METHOD.schedule(recipe, 1)
    log = []
    for step, targets in enumerate(case.config["targets_per_step"]):
        apply_schedule(optimizer, factors, step)
        terms = METHOD.loss(model, batch_of(case, targets, f"_{step}"), recipe, recipe.task)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        rates = [group["lr"] for group in optimizer.param_groups]
        log.append({"step": step, "lr": rates, "loss": terms["loss"].item(), "parts": named(terms, recipe)})
    final = convert.publish(model.state_dict())
    return {"log": log} | {name: value.flatten()[:DRAWN] for name, value in final.items() if name in case.outputs}


@torch.no_grad()
def vit_prompt(case: Golden) -> dict[str, Any]:
    config, images = case.config, torch.from_numpy(case.input("image"))
    kind, architecture = architecture_of(config["vit"])
    gain = VisionLanguageRecipe().feedback_gain
    with undrawn():
        vision = build_vision(
            architecture,
            images.shape[-1],
            top_down=kind == "absvit",
            text_width=config["text_dim"],
            gain=gain,
        )
    state = METHOD.convert({f"{convert.VISION}{name}": value for name, value in case.state_dict().items()})
    vision.load_state_dict({name.removeprefix(convert.VISION): value for name, value in state.items()})
    vision.eval()
    assert isinstance(vision, TextSteeredViT)
    patches = vision.patch_embed(images)
    first, prior = vision.encode(patches), vision.prompt_decoder(torch.from_numpy(case.input("prompt")))
    signals = list(vision.signals(first, prior))
    states: list[Tensor] = []
    found = {"tokens": vision.encode(patches, signals, states), "first_pass_tokens": first}
    weights = attention.class_attention(vision, patches, signals)
    prefix = vision.num_prefix_tokens
    return found | {
        "var_loss": vision.reconstruction_errors(states).sum(),
        "mask": vision.prior_mask(first, prior)[:, prefix:, 0],
        **{f"td_{position}": signal for position, signal in enumerate(signals)},
        "attention_times_1000": 1000 * weights,
        "attention_shown_times_1000": 1000 * attention.shown(weights),
        "attention_row_sum_incl_cls_heads": weights.sum(1),
    }


# Optimisation ---------------------------------------------------------------------------------------------------------


def param_groups(case: Golden) -> dict[str, Any]:
    recipe, model = recipe_of(case.config), model_of(case.config)
    names = [name for name in convert.publish(model.state_dict()) if name != convert.POSITION_IDS]
    groups = grouped(names, recipe)
    held = {name for group in groups for name in group.names}
    optimizer = build_optimizer(METHOD.param_groups(model, recipe), recipe)
    low, high = optimizer.param_groups[0]["betas"]
    return {
        "groups": [{"lr": g.lr, "weight_decay": g.weight_decay, "names": g.names} for g in groups],
        "in_no_group": [name for name in names if name not in held],
        "requires_grad_false": [name for name in names if frozen(name, recipe)],
        "optimizer": f"{type(optimizer).__name__} betas ({low}, {high}) eps {optimizer.defaults['eps']:.0e}".replace(
            "e-0", "e-"
        ),
    }


def schedule(case: Golden) -> dict[str, Any]:
    config = case.config
    cosine = config["decay_power"] == "cosine"
    # The program counts batches, then divides: the last steps of an epoch may cross into the next one.
    steps = config["batches_per_epoch"] * config["max_epoch"] // config["accumulate"]
    config.only(max_steps_used=steps)
    settings = VisionLanguageRecipe(
        steps=steps,
        lr=config["learning_rate"],
        lr_head=config["lr_mult_head"],
        lr_fusion=config["lr_mult_cross_modal"],
        lr_feedback=config["lr_mult_feedback"],
        warmup_steps=config["warmup_steps"],
        scheduler="cosine" if cosine else "polynomial",
        power=1.0 if cosine else config["decay_power"],
        min_lr=config["end_lr"],
        legacy_groups=True,
    )
    bare = [torch.nn.Parameter(torch.zeros(1)) for _ in range(7)]
    names = ("cls_token", "norm.bias", "vqa_classifier.weight", "vqa_classifier.bias", "cross_modal.weight")
    groups = grouped((*names, "cross_modal.bias", "prompt_decoder.weight"), settings)
    optimizer = build_optimizer(
        [{"params": [p], "lr": group.lr} for p, group in zip(bare, groups, strict=True)], settings
    )
    factors, rates = METHOD.schedule(settings, 1), []
    for step, _ in case.outputs["step_lr"]["value"]:
        apply_schedule(optimizer, factors, step)
        rates.append([step, [group["lr"] for group in optimizer.param_groups]])
    return {"max_steps": settings.steps, "step_lr": rates}


# Measures -------------------------------------------------------------------------------------------------------------


def metric(case: Golden) -> dict[str, Any]:
    logits, target, which, label = (case.input(name).copy() for name in ("logits", "target", "which", "label"))
    case.config.only(n=len(logits), classes=logits.shape[1])
    logits[0, [1, 3]] = logits[0].max() + 1
    target[which >= 0.4] = 0
    label[::4] = -100
    return {"vqa_score": metrics.soft_score(logits, target), "accuracy": metrics.accuracy(logits, label)}


def recall(case: Golden) -> dict[str, Any]:
    counts, scores = case.config["captions_per_image"], case.input("scores").copy()
    belongs = np.repeat(np.arange(len(counts)), counts)[None] == np.arange(len(counts))[:, None]
    scores[belongs] += 1
    return metrics.recall(np.round(scores) if case.config["rounded_scores"] else scores, belongs)


def tolerance(case: Golden, output: str) -> Tolerance | None:
    """Weights after the last step have a tolerance of their own."""
    if output != "log" and (entry := case.raw.get("tolerance_final_tensors")):
        return Tolerance(**entry)
    return None


RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "full": full,
    "tiny": tiny,
    "trajectory": trajectory,
    "vit_prompt": vit_prompt,
    "param_groups": param_groups,
    "schedule": schedule,
    "metric": metric,
    "recall": recall,
    **absvit_vision_language_data.RUNNERS,
}

NO_CASE = "of loading, logging and machines, which no case has"
TRAINING_ONLY = "acts in training alone"
DESCRIPTIVE = {
    **{
        f"*:{name}": NO_CASE
        for name in (
            *("exp_name", "seed", "data_root", "log_dir", "vit_path", "load_path", "resume_from", "test_only"),
            *("num_gpus", "num_nodes", "num_workers", "per_gpu_batchsize", "val_check_interval"),
            *("check_val_every_n_epoch", "get_recall_metric"),
        )
    },
    "*:datasets*": "a case brings its batches, prepared",
    "*:*_transform_keys*": "a case brings its batches, prepared",
    "index_*:files.*": "what is in the set's files; not every word counts",
    "index_*:files_that_are_json_lines": "no name in it where every file is one JSON text",
    "*:mlm_prob": "of pretraining",
    "*:whole_word_masking": "of pretraining",
    "*:resolution_before": "of CLIP's encoders",
    "*:num_layers": "the program never reads it; num_top_layer counts the fusion layers",
    "*:drop_rate": "cases are computed without dropout",
    "*:loss_names": "the program sums the losses whose weight is above 0, without these weights",
    "*:loss_names.*": "the program sums the losses whose weight is above 0, without these weights",
    "*:batch_size": "a case brings its batches",
    **{
        f"{kind}_*:{name}": TRAINING_ONLY
        for kind in ("full", "tiny")
        for name in (
            *("optim_type", "learning_rate", "weight_decay", "decay_power", "max_epoch", "max_steps", "warmup_steps"),
            *("end_lr", "lr_mult_*"),
        )
    },
    **{
        f"param_groups_*:{name}": "no group depends on it"
        for name in (
            *("decay_power", "max_epoch", "max_steps", "warmup_steps", "end_lr", "max_text_len", "draw_false_text"),
            *("vocab_size", "vqav2_label_size", "image_size", "hidden_size", "num_heads", "mlp_ratio", "var_loss"),
        )
    },
    "full_*:draw_false_text": "of the losses",
    "*_vit:var_loss": "a plain ViT reconstructs nothing",
    "*_vit:lr_mult_feedback": "a plain ViT feeds nothing back",
    "*_irtr_*:var_loss": "the program adds the reconstruction for VQA alone",
    "*_nlvr2_*:var_loss": "the program adds the reconstruction for VQA alone",
    "*_snli_*:var_loss": "the program adds the reconstruction for VQA alone",
    "*_irtr_*:vqav2_label_size": "of VQA",
    "*_nlvr2_*:vqav2_label_size": "of VQA",
    "*_snli_*:vqav2_label_size": "of VQA",
    "trajectory_*:max_epoch": "the case says how many steps",
    "trajectory_*:max_steps": "the case says how many steps",
    "trajectory_*:draw_false_text": "of retrieval",
    "tiny_*:draw_false_text": "of retrieval, whose cases bring so many",
    "full_*:freeze_backbone": TRAINING_ONLY,
}
