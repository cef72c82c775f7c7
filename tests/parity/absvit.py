"""Runners for AbSViT's goldens: training, data, evaluation, maps. Those about models stand in absvit_models.py."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from timm.utils import ModelEmaV3
from torchvision import transforms
from torchvision.transforms import v2

from attnbias.data.published_tests import competing_scores
from attnbias.data.sets import imagenet
from attnbias.data.sets.class_folders import read_class_folders
from attnbias.data.sets.inaturalist import read_inaturalist
from attnbias.data.transforms.basic import ShortSideResize, ToNormalizedTensor, normalization
from attnbias.data.transforms.corruptions import PUBLISHED_SIZE, precropped_transform
from attnbias.methods.absvit import attention, augment, recipe
from attnbias.methods.absvit.method import METHOD
from attnbias.methods.absvit.model import AbSViT, build
from attnbias.methods.engine.evaluation import robustness
from attnbias.methods.engine.evaluation.attacks import Attack, adversarial
from attnbias.methods.engine.losses import classification_loss
from attnbias.methods.engine.metrics import singlelabel_measures
from attnbias.methods.engine.training.optim import apply_schedule, build_optimizer
from tests.parity.absvit_models import (
    checkpoint,
    forward,
    grad,
    group_names,
    init_stats,
    layouts,
    model_of,
    posembed,
    recipe_of,
    soft_target,
)
from tests.parity.comparison import Tolerance
from tests.parity.golden_case import Golden, Settings

# Training -------------------------------------------------------------------------------------------------------------


def losses(case: Golden) -> dict[str, Any]:
    scores, target = torch.from_numpy(case.input("scores")), torch.from_numpy(case.input("target"))
    mixed = soft_target(target, scores.shape[1], case.config["lam"], case.config["smoothing"])
    return {
        "label_smoothing_ce": classification_loss(scores, target, "singlelabel", case.config["smoothing"]),
        "soft_target_ce": classification_loss(scores, mixed, "singlelabel", case.config["smoothing"]),
        "ce": classification_loss(scores, target, "singlelabel", 0.0),
        "soft_target": mixed,
    }


def lr(case: Golden) -> dict[str, Any]:
    config = case.config
    config.only(lr_after_scaling=scaled_rate(config))
    settings = recipe.AbSViTRecipe(
        epochs=config["epochs"],
        batch_size=config["batch_size"] * config["world_size"],
        lr=config["lr_after_scaling"],
        scheduler=config["sched"],
        warmup_epochs=config["warmup_epochs"],
        warmup_lr=config["warmup_lr"],
        min_lr=config["min_lr"],
        decay_epochs=config["decay_epochs"],
        gamma=config["decay_rate"],
    )
    steps, factors = 7, METHOD.schedule(settings, 7)
    rates = [settings.lr * factors(epoch * steps + 3)["lr"] for epoch in range(settings.epochs + 1)]
    return {"lr_used_in_epoch": rates[:-1], "lr_after_last_step": rates[-1]}


def scaled_rate(config: Settings) -> float:
    """The program's rate: that of its flag, for 512 images a step."""
    return float(config["lr_argument"] * config["batch_size"] * config["world_size"] / 512)


def mixup(case: Golden) -> dict[str, Any]:
    config = case.config
    mixing = augment.batch_mixing(
        recipe.AbSViTRecipe(
            mixup=config["mixup_alpha"],
            cutmix=config["cutmix_alpha"],
            mixup_probability=config["prob"],
            switch_probability=config["switch_prob"],
            mixup_mode=config["mode"],
            label_smoothing=config["label_smoothing"],
        ),
        config["num_classes"],
    )
    assert mixing is not None
    outputs = {}
    np.random.seed(config["numpy_seed"])
    for position in range(sum(name.startswith("x") for name in case.inputs)):
        images, targets = (torch.from_numpy(case.input(f"{name}{position}")) for name in "xy")
        config.only(batch=len(images))
        outputs[f"x{position}"], outputs[f"target{position}"] = mixing(images, targets)
    return outputs


def sampler(case: Golden) -> dict[str, Any]:
    config = case.config
    config.only(shuffle=True)
    order = augment.repeated_augmentation_order(config["dataset_len"], config["epoch"])
    world = config["num_replicas"]
    return {f"rank{rank}": order[rank::world][: len(order) // world] for rank in range(world)}


def trajectory(case: Golden) -> dict[str, Any]:
    config = case.config
    config.only(drop_path=0.0, lr_after_scaling=scaled_rate(config))  # what is dropped is drawn
    settings = recipe_of(config, lr=config["lr_after_scaling"], optimizer=config["opt"], scheduler=config["sched"])
    model = model_of(config, case.state_dict()).train()
    groups = METHOD.param_groups(model, settings)
    optimizer, average = build_optimizer(groups, settings), ModelEmaV3(model, decay=config["model_ema_decay"])
    mixing = augment.batch_mixing(settings, config["num_classes"])
    steps = config["steps_per_epoch"]
    factors = METHOD.schedule(settings, steps)
    images, targets = torch.from_numpy(case.input("images")), torch.from_numpy(case.input("targets"))
    history, rates = [], []
    np.random.seed(config["seed"])
    for step in range(steps * config["epochs_run"]):
        apply_schedule(optimizer, factors, step)
        rates.append([group["lr"] for group in optimizer.param_groups])
        batch = images[step % steps].clone(), targets[step % steps]
        image, target = mixing(*batch) if mixing else batch
        value = METHOD.loss(model, {"image": image, "target": target}, settings, "singlelabel")["loss"]
        optimizer.zero_grad()
        value.backward()
        if config["clip_grad"] is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config["clip_grad"])
        optimizer.step()
        average.update(model)
        history.append(value.item())
    apply_schedule(optimizer, factors, steps * config["epochs_run"])
    return {
        "loss": history,
        "lr_per_step": rates,
        "final_lr_after_last_scheduler_step": [group["lr"] for group in optimizer.param_groups],
        "logged_train_loss_last_epoch": np.mean(history[-steps:]),
        "logged_train_lr_last_epoch": rates[-1][0],
        "param_groups": [
            {
                "weight_decay": group["weight_decay"],
                "betas": group["betas"],
                "eps": group["eps"],
                "names": names,
            }
            for group, names in zip(optimizer.param_groups, group_names(model, groups), strict=True)
        ],
        **{f"param:{name}": value for name, value in model.state_dict().items()},
        **{f"ema:{name}": value for name, value in average.module.state_dict().items()},
    }


# Data -----------------------------------------------------------------------------------------------------------------


def prep(case: Golden) -> dict[str, Any]:
    config = case.config
    # The program cuts the published corruptions to 224 whatever its --input-size says; ours would resize them then.
    precropped = config.choice("transform", {"eval": False, "inc": True})
    if precropped:
        transform = precropped_transform(PUBLISHED_SIZE, "imagenet")
    else:
        settings = recipe.AbSViTRecipe().model_copy(update={"image_size": config["input_size"]})
        transform = augment.evaluation_transform(settings)
    config.only(steps=in_words(transform))
    return {"tensor": transform(Image.fromarray(case.input("picture")))}


def in_words(transform: v2.Compose) -> str:
    """Our evaluation transform as torchvision's first version prints it."""
    lines = []
    for step in transform.transforms:
        match step:
            case ShortSideResize():
                options = f"interpolation={step.interpolation.value}, max_size=None, antialias=True"
                lines.append(f"Resize(size={step.size[0]}, {options})")
            case v2.CenterCrop():
                lines.append(f"CenterCrop(size={tuple(step.size)})")
            case ToNormalizedTensor():
                lines += ["ToTensor()", f"Normalize(mean={tuple(step.mean)}, std={tuple(step.std)})"]
            case _:
                raise ValueError(f"a step that the published program does not have: {step}")
    return "     ".join(["Compose(", *lines]) + " )"


def prep_train(case: Golden) -> dict[str, Any]:
    crop, flip, policy, normalize, erasing = augment.training_transform(recipe.AbSViTRecipe()).transforms
    # Pillow's filters were plain numbers then.
    plain = lambda options: str({k: int(v) if isinstance(v, int) else v for k, v in options.items()})  # noqa: E731
    levels = [op.level_fn.__name__ if op.level_fn else "None" for op in policy.ops]
    case.config.only(
        steps=[
            str(crop).replace("interpolation=bicubic", "interpolation=PIL.Image.BICUBIC"),
            f"RandomHorizontalFlip(p={flip.p})",
            f"RandAugment n={policy.num_layers}, {len(policy.ops)} ops",
            "ToTensor()",
            str(transforms.Normalize(torch.tensor(normalize.mean), torch.tensor(normalize.std))),
            "RandomErasing",
        ]
    )
    return {
        "randaugment_ops": [
            [op.aug_fn.__name__, op.prob, op.magnitude, op.magnitude_std, level, plain(op.kwargs), plain(op.hparams)]
            for op, level in zip(policy.ops, levels, strict=True)
        ],
        "random_erasing": {name: getattr(erasing, name) for name in case.raw["random_erasing"]},
    }


def datasets(case: Golden) -> dict[str, Any]:
    folder, inat = case.raw["folder"], case.raw["inat_input"]
    with tempfile.TemporaryDirectory() as position:
        root = Path(position)
        for name in folder["files"]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        index = read_class_folders(root / "val")
        for name, content in inat.items():
            (root / name).write_text(json.dumps(content))
        for image in inat["val2018.json"]["images"]:
            # The published loader passes over the super-category's folder; ours takes whichever tree is there.
            first, _, third, _ = image["file_name"].split("/")
            (root / first / third).mkdir(parents=True, exist_ok=True)
        groups = {level: read_inaturalist(root, "val", level=level) for level in case.raw["inat"]}
    samples = [[record.path, record.target] for record in index.records]
    class_to_idx = {name: position for position, name in enumerate(index.classes)}
    return {
        # The program says 1000 classes whatever the folders hold.
        "folder": {**folder, "class_to_idx": class_to_idx, "samples": samples},
        "inat": {
            level: {
                "nb_classes": len(found.classes),
                "samples": [[record.path, record.target] for record in found.records],
            }
            for level, found in groups.items()
        },
    }


# Evaluation -----------------------------------------------------------------------------------------------------------


def attack(case: Golden) -> dict[str, Any]:
    config, model = case.config, model_of(case.config, case.state_dict())
    mean, std = normalization("imagenet")
    scale, offset = (torch.tensor(values).view(3, 1, 1) for values in (std, mean))
    images = (torch.from_numpy(case.input("pixels")) - offset) / scale
    targets = torch.from_numpy(case.input("target"))
    settings = Attack(
        *(fraction(config[k]) for k in ("eps_pixel", "alpha_pixel")), config["iters"], config["random_init"]
    )
    start = None
    if config["random_init"]:
        start = torch.stack([torch.from_numpy(case.input(f"start{c}")) for c in range(3)], dim=1) * 2 - 1
    changed = adversarial(model, images, targets, settings, mean, std, start=start)
    delta = (changed - images) * scale * 255
    radius = settings.epsilon * 255
    with torch.no_grad():
        logits = {"clean": model(images), "adv": model(changed)}
    return {
        **{f"logits_{name}": value for name, value in logits.items()},
        **{f"loss_{name}": classification_loss(value, targets, "singlelabel", 0.0) for name, value in logits.items()},
        "delta_in_pixel_levels": delta,
        "share_at_plus_eps": (delta > 0.99 * radius).float().mean(),
        "share_at_minus_eps": (delta < -0.99 * radius).float().mean(),
    }


def fraction(text: str) -> float:
    over, under = text.split("/")
    return float(over) / float(under)


def metric_accuracy(case: Golden) -> dict[str, Any]:
    logits, targets = case.input("logits").copy(), case.input("target")
    case.config.only(num_classes=logits.shape[1])
    kept = np.arange(logits.shape[1])
    named = case.config.choice("mask", {None: None, "imagenet_a_indices": "a", "imagenet_r_indices": "r"})
    if named:
        # The setting names A's indices in the cases of both subsets; what a case shows names its own.
        stated = re.search(r"ImageNet-([AR]) mask", case.raw["what"])
        subset = stated[1].lower() if stated else named
        kept = np.array(imagenet.subset_indices(f"imagenet-{subset}"))
    even = np.arange(0, len(logits), 2)
    logits[even, kept[targets[even]]] += 3
    shares = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    measures = singlelabel_measures(kept[targets], competing_scores(shares, tuple(kept.tolist())))
    # The program's loss is a mean of batch means over all columns, with the subset's numbers; ours is not reported.
    size = case.config["batch_size"]
    batches = zip(torch.from_numpy(logits).split(size), torch.from_numpy(targets).split(size), strict=True)
    return {
        "acc1": measures["top1"],
        "acc5": measures["top5"],
        "loss": np.mean([classification_loss(x, y, "singlelabel", 0.0).item() for x, y in batches]),
    }


def metric_mce(case: Golden) -> dict[str, Any]:
    names = case.config["folders"]
    accuracies = dict(zip(names, case.input("corruption_acc").astype(np.float64), strict=True))
    table = robustness.corruption_errors({name: list(row) for name, row in accuracies.items()})
    case.config.only(
        folders=[name for name in imagenet.CORRUPTIONS if name in names],
        corruptions_in_order=[name.replace("_", " ").title().replace("Jpeg", "JPEG") for name in names],
        alexnet_error=[robustness.ALEXNET_ERROR[name] for name in names],
    )
    return {
        "mean_acc_per_corruption": [table.accuracy[name] for name in names],
        "ce_percent": [table.error[name] for name in names],
        "mce_percent": table.mce,
        "overall_acc": table.mean_accuracy,
    }


def imagenet_subsets(case: Golden) -> dict[str, Any]:
    return {
        "imagenet_a_indices": imagenet.subset_indices("imagenet-a"),
        "imagenet_r_indices": imagenet.subset_indices("imagenet-r"),
        "all_wnids": list(imagenet.synsets()),
    }


# Maps -----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def vis_demo(case: Golden) -> dict[str, Any]:
    config = case.config
    model = model_of(config, case.state_dict())
    assert isinstance(model, AbSViT)
    config.only(layer_index=len(model.blocks) - 3)  # the block before which the product takes its norms
    image = attention.demo_input(case.input("picture"), config["grid"] * model.patch_embed.patch_size[0])[None]
    patches, classes = model.patch_embed(image), torch.tensor([config["classes"]])
    tokens, prefix, gain = model.encode(patches), model.num_prefix_tokens, config["class_mask_factor"]
    masks = attention.class_masks(model, tokens, classes, gain)[0]
    steered = attention.steered_norms(model, patches, classes, gain)[0]
    mask = model.prior_mask(tokens)[0, prefix:, 0]
    prompt = attention.feature_norms(model, patches, attention.evaluated_feedback(model, patches))[0]
    maps = {
        "absvit_no_topdown_feature_norm": attention.feature_norms(model, patches)[0],
        "prompt_mask": mask,
        "prompt_mask_thresholded": attention.top_of_range(mask),
        "prompt_feature_norm": prompt,
        "prompt_map": attention.top_of_range(prompt),
    }
    if config["baseline"] is None:
        config.only(baseline_salt=None)
    else:
        baseline = baseline_of(case)
        plain = attention.feature_norms(baseline, baseline.patch_embed(image))[0]
        maps |= {"vit_feature_norm": plain, "vit_map": attention.top_of_range(plain)}
    for position, number in enumerate(config["classes"]):
        maps[f"class{number}_mask"] = masks[position]
        maps[f"class{number}_feature_norm"] = steered[position]
        maps[f"class{number}_map"] = attention.top_of_range(steered[position])
    return {name: value.reshape(config["grid"], config["grid"]) for name, value in maps.items()}


def baseline_of(case: Golden) -> VisionTransformer:
    """The plain ViT beside a demo's model: its layout is not stored, its weights have a salt of their own."""
    config = {"model": case.config["baseline"], "num_classes": case.config["num_classes"]}
    names = build(recipe_of(config), config["num_classes"]).state_dict()
    layout = {name: [list(value.shape), "float32"] for name, value in names.items()}
    return model_of(config, case.state_dict(layout=layout, salt=case.config["baseline_salt"]))


def vis_load_image(case: Golden) -> dict[str, Any]:
    return {"tensor": attention.demo_input(case.input("picture"), case.config["size"])}


def tolerance(case: Golden, output: str) -> Tolerance | None:
    """What the notes state in prose."""
    if output == "delta_in_pixel_levels":
        return Tolerance(atol=0.02, share=0.98)
    if case.name.startswith("init"):
        kind, name = output.split(":")
        if kind == "std" and name not in ("cls_token", "prompt"):
            return Tolerance(rtol=0.15)
        # Few numbers, or statistics of pure chance.
        return (
            Tolerance(rtol=0.25)
            if name == "prompt" and kind == "std"
            else Tolerance(atol={"absmax": 1.5}.get(kind, 0.3))
        )
    return None


RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "forward": forward,
    "grad": grad,
    "init": init_stats,
    "layouts": layouts,
    "posembed": posembed,
    "checkpoint": checkpoint,
    "losses": losses,
    "lr": lr,
    "mixup": mixup,
    "sampler": sampler,
    "traj": trajectory,
    "prep": prep,
    "prep_train": prep_train,
    "datasets": datasets,
    "attack": attack,
    "metric_accuracy": metric_accuracy,
    "metric_mce": metric_mce,
    "imagenet_subsets": imagenet_subsets,
    "vis_demo": vis_demo,
    "vis_load_image": vis_load_image,
}

DESCRIPTIVE = {
    "forward_vit_*:var_loss": "a plain ViT reconstructs nothing",
    "forward_vit_*:feedback_aug": "a plain ViT feeds nothing back",
    "forward_*:eval_mode": "nothing is dropped in these models: both modes compute the same",
    "forward_*:init_values": "the weights hold what the scales became in training",
    "grad_vit_*:var_loss": "a plain ViT reconstructs nothing",
    "grad_*_smooth:num_classes": "the head's weights tell it too; smoothed labels do not depend on it",
    "init_*:img_size": "statistics of drawn weights do not depend on how many there are",
    "init_*:num_classes": "statistics of drawn weights do not depend on how many there are",
    "lr_*:cooldown_epochs": "the program's loop ends at --epochs, before any cool-down",
    "lr_*:decay_*": "of the scheduler `step`",
    "mixup_batch_mix_only:switch_prob": "of CutMix beside mixup",
    "prep_inc_*:input_size": "the program cuts the published corruptions to 224 whatever its --input-size says",
    "traj_vit_*:var_loss": "a plain ViT reconstructs nothing",
    "traj_vit_*_smooth:seed": "nothing is drawn where nothing is mixed",
}
