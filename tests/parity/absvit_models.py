"""Runners for AbSViT's goldens about models: forward passes, gradients, initialisation, layouts, checkpoints."""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from attnbias.methods.absvit import attention, augment, convert, loss, recipe
from attnbias.methods.absvit.method import METHOD
from attnbias.methods.absvit.model import AbSViT, build
from attnbias.methods.engine.maps import attention_weights
from attnbias.methods.engine.outline import names_and_shapes, undrawn
from attnbias.weights.files import match_state, read_checkpoint
from tests.parity.golden_case import Golden

OPTIONS = ("patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias")
OPTIONS += ("init_values", "no_embed_class", "class_token", "global_pool", "fc_norm")
"""Of the program's constructor; timm calls them the same."""


def architecture(name: str) -> tuple[str, bool]:
    """A published model's name -> (recipe architecture, second pass): absvit_tiny_patch8_224_gap -> tiny_patch8_gap."""
    kind, size = name.replace("_224", "").split("_", 1)
    return size, kind == "absvit"


def model_of(config: dict[str, Any], state: dict[str, Tensor]) -> VisionTransformer:
    size, top_down = architecture(config["model"])
    options = dict(recipe.ARCHITECTURES[size], num_classes=config.get("num_classes", 1000))
    options["img_size"] = tuple(np.broadcast_to(config.get("img_size", 224), 2).tolist())
    options |= {name: config[name] for name in OPTIONS if name in config}
    with undrawn():
        model = AbSViT(gain=config.get("feedback_aug", 1), **options) if top_down else VisionTransformer(**options)
    model.load_state_dict(METHOD.convert(state))
    return model.eval()


def recipe_of(config: dict[str, Any], **changes: Any) -> recipe.AbSViTRecipe:
    size, top_down = architecture(config["model"])
    names = {"img_size": "image_size", "smoothing": "label_smoothing", "var_loss": "reconstruction_weight"}
    names |= {name: name for name in recipe.AbSViTRecipe.model_fields}
    fields = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    return recipe.AbSViTRecipe(**fields | {"architecture": size, "top_down": top_down} | changes)


@torch.no_grad()
def forward(case: Golden) -> dict[str, Any]:
    model, images = model_of(case.config, case.state_dict()), torch.from_numpy(case.input("image"))
    model.train(not case.config["eval_mode"])
    last, patches = len(model.blocks) - 1, model.patch_embed(images)

    def weights(feedback: Any, suffix: str) -> dict[str, Tensor]:
        stream = attention.residual_stream(model, patches, feedback)
        inputs = dict(zip(range(last + 1), stream, strict=False))
        return {
            f"attn_block{place}{suffix}": attention_weights(model.blocks[place], inputs[place]) for place in (0, last)
        }

    if not isinstance(model, AbSViT):
        tokens = model.forward_features(images)
        return weights(None, "") | {
            "tokens": tokens,
            "logits": model(images),
            "pre_logits": model.forward_head(tokens, pre_logits=True),
        }
    first = model.encode(patches)
    signals = list(model.feedback(model.weighted(first)))
    states: list[Tensor] = []
    second = model.encode(patches, signals, states)
    errors = model.reconstruction_errors(states)
    passes = model(images, passes=True)
    terms = loss.two_pass_loss(passes, passes.second.softmax(-1), "singlelabel", 0.0, case.config["var_loss"])
    return (
        weights(None, "_pass1")
        | weights(signals, "_pass2")
        | {
            "logits_pass1": passes.first,
            "logits_pass2": model(images),
            "tokens_pass1": first,
            "tokens_pass2": second,
            "mask": model.prior_mask(first),
            "td_first": signals[0],
            "td_last": signals[-1],
            "block0_out_pass2": states[1],
            "blockmid_out_pass2": states[len(model.blocks) // 2 + 1],
            "recon_mse_per_layer": errors,
            "var_loss": terms["reconstruction"],
        }
    )


def grad(case: Golden) -> dict[str, Any]:
    config = case.config
    mixed = config["mixup_lam"] is not None
    criterion = "soft target cross entropy" if mixed else "label smoothing CE"
    config.only(drop_path=0.0, criterion=criterion)  # what is dropped is drawn
    model = model_of(config, case.state_dict()).train()
    images, target = torch.from_numpy(case.input("image")), torch.from_numpy(case.input("target"))
    outputs: dict[str, Any] = {}
    if mixed:
        target = soft_target(target, config["num_classes"], config["mixup_lam"], config["smoothing"])
        outputs["soft_target"] = target
    settings = recipe_of(config)
    terms = METHOD.loss(model, {"image": images, "target": target}, settings, "singlelabel")
    terms["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    outputs["loss"] = terms["loss"]
    if "first" in terms:
        outputs |= {"criterion_pass1": terms["first"], "criterion_pass2": terms["second"]}
        outputs["var_loss"] = terms["reconstruction"]
    else:
        outputs["logits"] = model(images)
    outputs["grad_norm_total"] = torch.stack([g.norm() for g in gradients.values()]).norm()
    return (
        outputs
        | {f"grad_norm:{name}": g.norm() for name, g in gradients.items()}
        | {f"grad:{name}": g for name, g in gradients.items()}
    )


def soft_target(target: Tensor, classes: int, share: float, smoothing: float) -> Tensor:
    return augment.mixup_target(target, classes, share, smoothing)


def init_stats(case: Golden) -> dict[str, Any]:
    torch.manual_seed(0)
    state = build(recipe_of(case.config), case.config["num_classes"]).state_dict()
    measures = {"std": lambda x: x.std(), "mean": lambda x: x.mean(), "absmax": lambda x: x.abs().max()}
    return {f"{kind}:{name}": measure(state[name]) for kind, measure in measures.items() for name in state}


def layouts(case: Golden) -> dict[str, Any]:
    counts, shapes, groups, names = [], {}, {}, {}
    for name in case.raw["models"]:
        settings = recipe_of({**case.config, "model": name})
        with names_and_shapes():
            model = build(settings, case.config["num_classes"])
        counts.append(sum(p.numel() for p in model.parameters()))
        shapes[name] = {key: [list(v.shape), str(v.dtype).split(".")[1]] for key, v in model.state_dict().items()}
        groups[name] = [
            {
                "weight_decay": group["weight_decay"],
                "tensors": len(group["params"]),
                "numbers": sum(p.numel() for p in group["params"]),
            }
            for group in METHOD.param_groups(model, settings)
        ]
        names[name] = group_names(model, METHOD.param_groups(model, settings))
        assert list(shapes[name]) == list(case.raw["layouts"][name]), f"{name}: another order"
    return {
        "param_count": counts,
        "layouts": shapes,
        "param_groups": groups,
        "param_group_names_absvit_tiny": names["absvit_tiny_patch16_224"],
    }


def group_names(model: VisionTransformer, groups: list[dict[str, Any]]) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in groups]


def posembed(case: Golden) -> dict[str, Any]:
    embedding = torch.from_numpy(case.input("pos_embed"))
    side = math.isqrt(embedding.shape[1] - 1)
    old = case.config["old_grid"]
    case.config.only(extra_tokens=1, old_grid=[side, side] if isinstance(old, list) else side)
    grid = np.broadcast_to(case.config["new_grid"], 2).tolist()
    return {"pos_embed_new": convert.resize_pos_embed(embedding, tuple(grid))}


def checkpoint(case: Golden) -> dict[str, Any]:
    """A published training dictionary, with its Namespace, is read; both entries fit and `args` is kept."""
    model = build(recipe_of({"model": case.config["model"]}), 1000)
    state = model.state_dict()
    groups = METHOD.param_groups(model, recipe_of({"model": case.config["model"]}))
    optimizer = torch.optim.AdamW([{"params": group["params"]} for group in groups])
    content = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": case.raw["lr_scheduler"],
        "epoch": case.raw["epoch"],
        "model_ema": {name: value + 1 for name, value in state.items()},
        "scaler": {},
        "args": argparse.Namespace(lr=case.raw["args_lr_is_scaled_value"]),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pth"
        torch.save(content, path)
        raw, ema = read_checkpoint(path), read_checkpoint(path, entry="ema")
    converted = METHOD.convert(raw.state)
    assert match_state(state, converted)
    assert METHOD.infer(converted)["num_classes"] == 1000
    assert torch.equal(ema.state["head.bias"], state["head.bias"] + 1)
    return {
        "model_key_count": len(converted),
        "model_ema_key_count": len(METHOD.convert(ema.state)),
        "same_keys_model_ema": raw.state.keys() == ema.state.keys(),
        "epoch": raw.extra["epoch"],
        "args_lr_is_scaled_value": raw.extra["args"]["lr"],
    }
