"""Runners for the goldens of AbSViT's segmentation: models, losses, measures, training. Data has a file of its own."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnbias.data.label_maps import IGNORE
from attnbias.data.sets.palettes import CITYSCAPES, VOC, ade20k, palette
from attnbias.data.sets.segmentation_sets import REDUCED
from attnbias.methods.absvit.convert import resize_pos_embed
from attnbias.methods.absvit.segmentation.heads import FCNHead, UPerHead
from attnbias.methods.absvit.segmentation.inference import likeliest, probabilities, view_logits
from attnbias.methods.absvit.segmentation.loss import pixel_loss
from attnbias.methods.absvit.segmentation.method import METHOD, NO_DECAY
from attnbias.methods.absvit.segmentation.metrics import area_measures, class_measures, count_areas
from attnbias.methods.absvit.segmentation.model import TRAINED, DenseAbSViT, DenseViT, Segmenter, freeze
from attnbias.methods.absvit.segmentation.recipe import SegmentationRecipe
from attnbias.methods.engine.display.segments import paint
from attnbias.methods.engine.outline import names_and_shapes, undrawn
from attnbias.methods.engine.training.optim import apply_schedule, build_optimizer
from attnbias.weights.files import read_checkpoint
from tests.parity import absvit_segmentation_data, golden
from tests.parity.golden_case import Golden, Settings, UncomputedSetting

# Building from the program's configuration ----------------------------------------------------------------------------


def backbone_of(config: Settings) -> DenseViT:
    """The program's constructor arguments -> our backbone, in evaluation mode."""
    config.only(num_classes=-1, class_token=True, no_embed_class=False)  # the program's dense backbones take no others
    names = ("patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "drop_path_rate")
    names += ("img_size", "attn_drop_rate", "init_values", "global_pool")
    options = {name: config[name] for name in names if name in config}
    options["pos_drop_rate"] = options["proj_drop_rate"] = config.get("drop_rate", 0.0)
    levels = config.get("out_indices", -1)
    depth = config.get("depth", 12)
    options["levels"] = [level % depth for level in ([levels] if isinstance(levels, int) else levels)]
    transfer = config.get("transfer_type", "end2end")
    transfer = transfer if transfer in TRAINED else "end2end"  # the program's default is misspelt, and acts so
    if transfer == "prompt":
        prompts = config["prompt_config"]
        options |= {
            "prompts": prompts["num_tokens"],
            "deep_prompts": prompts["deep"],
            "prompt_dropout": prompts["dropout"],
        }
    backbone: DenseViT = config.choice("type", {"ViT_Top_Down": DenseAbSViT, "ViT_Bottom_Up": DenseViT})(**options)
    freeze(backbone, transfer)
    return backbone.eval()


def check_head(config: Settings, kind: str) -> None:
    """Hold what our heads have one value of; synchronised normalisation is the trainer's, and of the same numbers."""
    config.only(type=kind, align_corners=False)
    if "norm_cfg" in config:
        config["norm_cfg"].choice("type", dict.fromkeys(("BN", "SyncBN")))
        config["norm_cfg"].only(requires_grad=True)
    if "loss_decode" in config:
        config["loss_decode"].only(type="CrossEntropyLoss", use_sigmoid=False)


def upernet_of(config: Settings) -> UPerHead:
    check_head(config, "UPerHead")
    options = {"pool_scales": config.get("pool_scales", (1, 2, 3, 6)), "dropout": config.get("dropout_ratio", 0.1)}
    return UPerHead(config["in_channels"], config["channels"], config["num_classes"], **options)


def fcn_of(config: Settings) -> FCNHead:
    check_head(config, "FCNHead")
    names = {"num_convs": "convs", "kernel_size": "kernel_size", "dilation": "dilation"}
    names |= {"concat_input": "concat_input", "dropout_ratio": "dropout"}
    given = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    options = {"convs": 2, "concat_input": True, **given}  # the program's own defaults
    return FCNHead(config["in_channels"], config["channels"], config["num_classes"], **options)


def segmenter_of(config: Settings, state: dict[str, Tensor] | None = None) -> Segmenter:
    config.only(type="EncoderDecoder", neck=None, train_cfg={})
    parts = backbone_of(config["backbone"]), upernet_of(config["decode_head"]), fcn_of(config["auxiliary_head"])
    # UperNet sees all of the backbone's maps, the auxiliary head the last one.
    maps = len(parts[0].levels)
    config["decode_head"].only(in_index=list(range(maps)))
    config["auxiliary_head"].only(in_index=maps - 1)
    model = Segmenter(*parts)
    if state is not None:
        model.load_state_dict(METHOD.convert(state))
    return model.eval()


def recipe_of(config: Settings, **fields: Any) -> SegmentationRecipe:
    decode, auxiliary = (config[name].get("loss_decode", Settings({})) for name in ("decode_head", "auxiliary_head"))
    averaged = decode.get("avg_non_ignore", False)
    if auxiliary.get("avg_non_ignore", False) != averaged:
        raise UncomputedSetting("setting 'avg_non_ignore' differs between the two heads")
    fields |= {"decode_weight": decode.get("loss_weight", 1.0), "aux_weight": auxiliary.get("loss_weight", 1.0)}
    fields |= {"avg_non_ignore": averaged}
    test = config.get("test_cfg", Settings({}))
    fields |= {"mode": test.get("mode", "whole")}
    for theirs, ours in (("crop_size", "slide_crop"), ("stride", "slide_stride")):
        if theirs in test:
            fields[ours] = tuple(test[theirs])
    return SegmentationRecipe(**fields)


def image_of(case: Golden, name: str = "image", step: int | None = None) -> Tensor:
    return torch.from_numpy(case.input(name, step))


def labels_of(case: Golden, share: float, suffix: str = "", step: int | None = None) -> Tensor:
    """(B, H, W) int64, 255 where the case's `ignore` is below the share."""
    labels = case.input(f"labels{suffix}", step).copy()
    labels[case.input(f"ignore{suffix}", step) < share] = IGNORE
    return torch.from_numpy(labels)[:, 0].long()


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Models ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def backbone(case: Golden) -> dict[str, Any]:
    with undrawn():
        model = backbone_of(case.config)
    model.load_state_dict(case.state_dict())
    images = image_of(case)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    listed = isinstance(case.outputs["trainable"]["value"], list)  # where nothing is frozen, the case only counts
    outputs = {f"feature_{position}": x for position, x in enumerate(model.feature_maps(images))}
    outputs |= {"n_params": parameters(model), "trainable": trained if listed else f"{len(trained)} tensors"}
    if isinstance(model, DenseAbSViT):
        first = model.encode(model.patch_embed(images))
        masked = model.weighted(first)
        outputs |= {"first_pass_tokens": first, "masked_first_pass": masked, "mask": model.prior_mask(first)[..., 0]}
        outputs |= {f"td_{position}": signal for position, signal in enumerate(model.feedback(masked))}
    if "first_pass_tokens" in case.outputs:
        # What recorded the first pass in these cases also put it in place of the second one's final tokens, the last
        # map; all other cases, and the whole models', hold the second pass's.
        last = outputs[f"feature_{len(model.levels) - 1}"]
        tokens = outputs["first_pass_tokens"][:, model.num_prefix_tokens :]
        outputs[f"feature_{len(model.levels) - 1}"] = tokens.transpose(1, 2).reshape(last.shape)
    return outputs


@torch.no_grad()
def head(case: Golden) -> dict[str, Any]:
    maps = [image_of(case, name) for name in sorted(case.inputs)]
    case.config.get("dropout_ratio")  # the case's train mode drops nothing
    places, config = case.config["in_index"], Settings({**case.config, "dropout_ratio": 0.0})
    model = fcn_of(config) if isinstance(places, int) else upernet_of(config)
    model.load_state_dict(case.state_dict())
    inputs = maps[places] if isinstance(places, int) else [maps[place] for place in places]
    return {"logits": model.eval()(inputs), "logits_train_mode": model.train()(inputs)}


def upernet(case: Golden) -> dict[str, Any]:
    model, images, target = segmenter_of(case.config, case.state_dict()), image_of(case), labels_of(case, 0.15)
    with torch.no_grad():
        maps = model.backbone.feature_maps(images)
        decoded, auxiliary = model(images, auxiliary=True)
        full = view_logits(model, images, recipe_of(case.config))
    terms = METHOD.loss(model.train(), {"image": images, "target": target}, recipe_of(case.config), "segmentation")
    terms["loss"].backward()
    named = dict(model.named_parameters())
    gradients = {name: p.grad.norm().item() for name, p in named.items() if p.grad is not None}
    stored = case.outputs["gradients"]["value"]["per_param_norm"]
    return {
        **{f"feature_{position}": x for position, x in enumerate(maps)},
        "decode_logits": decoded,
        "aux_logits": auxiliary,
        "full_logits": full,
        "argmax": likeliest(full),
        "losses": published_terms(terms),
        "gradients": {
            "total_norm": math.sqrt(sum(norm**2 for norm in gradients.values())),
            "n_with_grad": len(gradients),
            "params_without_grad": [name for name in named if name not in gradients],
            "per_param_norm": {name: gradients[name] for name in stored if name in gradients},
        },
        "bn_running_mean_after": model.decode_head.fpn_bottleneck.bn.running_mean,
        "bn_running_var_after": model.decode_head.fpn_bottleneck.bn.running_var,
        "n_params": {
            "total": parameters(model),
            **{name: parameters(part) for name, part in model.named_children()},
        },
    }


def published_terms(terms: dict[str, Tensor]) -> dict[str, float]:
    """Loss terms under the program's names."""
    names = {"decode": "decode.loss_ce", "accuracy": "decode.acc_seg", "aux": "aux.loss_ce"}
    names |= {"aux_accuracy": "aux.acc_seg", "loss": "loss"}
    return {theirs: terms[ours].item() for ours, theirs in names.items()}


def load(case: Golden) -> dict[str, Any]:
    """An ImageNet file goes the way of --backbone-weights."""
    model = Segmenter(backbone_of(case.config), *small_heads(case.config["embed_dim"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "imagenet.pth"
        torch.save({"model": case.state_dict()}, path)
        METHOD.load_backbone(model, SegmentationRecipe(), read_checkpoint(path).state, path)
    with torch.no_grad():
        maps = model.eval().backbone.feature_maps(image_of(case))
    outputs = {f"feature_{position}": x for position, x in enumerate(maps)}
    return outputs | {name: value for name, value in model.backbone.state_dict().items() if name in case.outputs}


def small_heads(width: int) -> tuple[UPerHead, FCNHead]:
    return UPerHead([width] * 4, 8, 2), FCNHead(width, 8, 2)


def pos_resize(case: Golden) -> dict[str, Any]:
    embedding = image_of(case, "pos_embed")
    side = math.isqrt(embedding.shape[1] - 1)
    case.config.only(source_grid=[side, side])
    return {"pos_embed": resize_pos_embed(embedding, tuple(case.config["target_grid"]))}


# Inference ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def infer(case: Golden) -> dict[str, Any]:
    """One view of an image, or several (`multi`: each one's shape, and whether it is mirrored), whose mean counts."""
    config, recipe = case.config, recipe_of(case.config)
    model = segmenter_of(config, case.state_dict())
    views = [("image", config.get("img_shape"), config.get("flip"))]
    if "multi" in config:
        config.only(img_shape=None, flip=None)
        views = []
        for position, (shape, mirrored) in enumerate(config["multi"]):
            if list(image_of(case, f"image_{position}").shape) != shape:
                raise UncomputedSetting(f"setting 'multi[{position}][0]' is {shape}; its image has another shape")
            views.append((f"image_{position}", shape[-2:], "horizontal" if mirrored else None))
    shares = []
    for name, seen, flip in views:
        sizes = (config["ori_shape"][:2], seen[:2]) if config.get("rescale", True) else (None, None)
        shares.append(probabilities(view_logits(model, image_of(case, name), recipe, *sizes), flip))
    mean = torch.stack(shares).mean(dim=0)
    return {"probabilities": mean, "prediction": likeliest(mean)}


# Losses and measures --------------------------------------------------------------------------------------------------


def losses(case: Golden) -> dict[str, Any]:
    config, logits = case.config, image_of(case, "logits").requires_grad_()
    target = labels_of(case, config["ignored_share"])
    config.only(num_classes=logits.shape[1], label_size=list(target.shape[1:]))
    value, accuracy = pixel_loss(logits, target, config.get("avg_non_ignore", False))
    value = config["loss_weight"] * value
    value.backward()
    return {"loss_ce": value.item(), "acc_seg": accuracy.item(), "grad_logits": logits.grad}


def metric(case: Golden) -> dict[str, Any]:
    config, size = case.config, tuple(case.config["size"])
    offset = int(config["reduce_zero_label"])
    counts = []
    for position in range(config["n_images"]):
        prediction = golden.integers(f"pred_{position}", size, config["pred_high"], case.salt)
        label = golden.integers(f"gt_{position}", size, case.inputs["gt_i"]["high"], case.salt)
        agree = golden.uniform(f"agree_{position}", size, case.salt) < 0.5
        label = np.where(agree, prediction + offset, label)
        for absent in config["absent_classes"]:
            label[label == absent + offset] = offset
            prediction[prediction == absent] = 0
        label[golden.uniform(f"ignore_{position}", size, case.salt) < config["ignored_share"]] = IGNORE
        if offset:
            label = np.array(REDUCED)[label]
        areas = count_areas(torch.from_numpy(prediction), torch.from_numpy(label), config["num_classes"])
        counts.append([area.numpy() for area in areas])
    rows = [np.stack(area).astype(np.float64) for area in zip(*counts, strict=True)]
    hits, claims, truth = (area.sum(axis=0) for area in rows)
    found, summary = class_measures(hits, claims, truth), area_measures(*rows)
    means = {"aAcc": summary["aAcc"], **{name: summary[f"m{name}"] for name in found}}
    return {
        "aAcc": summary["aAcc"] / 100,
        **found,
        "mean_ignoring_nan_percent_rounded2": {name: round(value, 2) for name, value in means.items()},
        "areas": {"intersect": hits, "union": claims + truth - hits, "pred": claims, "label": truth},
    }


def overlay(case: Golden) -> dict[str, Any]:
    classes = {"PascalVOCDataset": VOC, "CityscapesDataset": CITYSCAPES, "ADE20KDataset": ade20k()}
    colours = palette(tuple(case.config.choice("dataset", classes)))
    photo = case.input("photo")
    case.config.only(size=list(photo.shape[:2]))
    return {"overlay_rgb": paint(photo, case.input("seg"), colours, case.config["opacity"])}


# Training -------------------------------------------------------------------------------------------------------------


def param_groups(case: Golden) -> dict[str, Any]:
    with names_and_shapes():
        model = segmenter_of(case.config)
    recipe = SegmentationRecipe()
    groups = METHOD.param_groups(model, recipe)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = build_optimizer(groups, recipe)
    first = optimizer.param_groups[0]
    return {
        "n_groups": len(names),  # the program has a group a tensor, frozen ones too
        **{f"decay_{group['weight_decay']:g}": [names[id(p)] for p in group["params"]] for group in groups},
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "optimizer": {
            "type": type(optimizer).__name__,
            **{name: first[name] for name in ("lr", "betas", "weight_decay")},
            "paramwise_cfg": {"custom_keys": {name: {"decay_mult": 0.0} for name in NO_DECAY}},
        },
    }


def training_recipe(config: Settings, **fields: Any) -> SegmentationRecipe:
    names = {"max_iters": "steps", "warmup_iters": "warmup_steps", "base_lr": "lr"}
    names |= {name: name for name in ("warmup_ratio", "power", "min_lr", "weight_decay")}
    return SegmentationRecipe(**fields, **{ours: config[theirs] for theirs, ours in names.items() if theirs in config})


def schedule(case: Golden) -> dict[str, Any]:
    recipe = training_recipe(case.config)
    factors = METHOD.schedule(recipe, 100)
    steps = [step for step, _ in case.outputs["iteration_lr"]["value"]]
    return {"iteration_lr": [[step, recipe.lr * factors(step)["lr"]] for step in steps]}


def trajectory(case: Golden) -> dict[str, Any]:
    config = case.config
    fields = recipe_of(config).model_dump(include={"decode_weight", "aux_weight", "avg_non_ignore"})
    recipe = training_recipe(config, **fields)
    model = segmenter_of(config, case.state_dict()).train()
    optimizer, factors = build_optimizer(METHOD.param_groups(model, recipe), recipe), METHOD.schedule(recipe, 1)
    history = []
    for step in range(config["steps"]):
        apply_schedule(optimizer, factors, step)
        images = image_of(case, "image_{i}", step)
        config.only(shape=list(images.shape))
        batch = {"image": images, "target": labels_of(case, 0.15, "_{i}", step)}
        value = METHOD.loss(model, batch, recipe, "segmentation")["loss"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        history.append([step, optimizer.param_groups[0]["lr"], value.item()])
    state = model.state_dict()
    ends = {name: state[name] for name in case.outputs if name in state}
    shapes = {name: case.outputs[name]["shape"] for name in ends}
    # Larger tensors are stored as their first 64 values.
    return {"iter_lr_loss": history} | {
        name: value if list(value.shape) == shapes[name] else value.flatten()[: shapes[name][0]]
        for name, value in ends.items()
    }


RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "backbone": backbone,
    "head": head,
    "upernet": upernet,
    "load": load,
    "pos_resize": pos_resize,
    "infer": infer,
    "loss": losses,
    "metric": metric,
    "overlay": overlay,
    "param_groups": param_groups,
    "schedule": schedule,
    "trajectory": trajectory,
    **absvit_segmentation_data.RUNNERS,
}

TRAINING_ONLY = "acts in training alone"
DESCRIPTIVE = {
    "*:*init_cfg*": "the file that the program starts from; a case brings its weights",
    "*:*num_tokens": "of the transfer type `prompt`",
    "*:*prompt_config*": "of the transfer type `prompt`",
    "backbone_*:drop_path_rate": TRAINING_ONLY,
    "load_*:drop_path_rate": TRAINING_ONLY,
    "load_*:transfer_type": "decides what is trained",
    "head_*:dropout_ratio": "the cases' train mode drops nothing",
    "infer_*:*drop*": TRAINING_ONLY,
    "infer_*:*loss_decode*": TRAINING_ONLY,
    "infer_*:*auxiliary_head*": TRAINING_ONLY,
    "infer_*:*transfer_type": "decides what is trained",
    "index_*:files[[]2]": "a file that is not a part of the set",
    **{
        f"param_groups_*:*{name}": "the parameters' names do not tell it"
        for name in (
            *("img_size", "patch_size", "mlp_ratio", "out_indices*", "in_channels*", "pool_scales*", "channels"),
            *("num_classes", "*drop*", "loss_weight"),
        )
    },
    "param_groups_*:*test_cfg*": "acts in inference alone",
    "param_groups_*:*transfer_type": "the program takes an unknown word for end2end, as its default is misspelt",
    "trajectory_*:*transfer_type": "the program takes an unknown word for end2end, as its default is misspelt",
    "trajectory_*:*test_cfg*": "acts in inference alone",
}
