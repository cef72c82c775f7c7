"""Runs LLB's code as the published program's golden cases say: one runner a kind of case."""

# No postponed annotations: the harness imports this file under no name, where pydantic could not look them up.

import re
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from attnbias.data.sets.class_folders import read_class_folders
from attnbias.data.sets.inaturalist import read_inaturalist
from attnbias.methods.engine.maps import attention_weights
from attnbias.methods.engine.metrics import by_formula
from attnbias.methods.engine.outline import names_and_shapes, undrawn
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.training.optim import apply_schedule, build_optimizer
from attnbias.methods.llb.attention import attention, object_maps
from attnbias.methods.llb.loss import object_usage, objective, usage_entropy
from attnbias.methods.llb.method import METHOD
from attnbias.methods.llb.metrics import agreement, mix, negative_log_likelihood, program_loss
from attnbias.methods.llb.model import LLB
from attnbias.methods.llb.recipe import SIZES, Family, LLBRecipe, ViTSize
from tests.parity.comparison import Tolerance
from tests.parity.golden_case import Golden, Settings

FAMILIES: dict[str, Family] = {"vit": "augreg", "augreg": "augreg", "mae": "mae", "swag": "swag"}
SCHEDULERS = {
    "steplr": "step",
    "multisteplr": "multistep",
    "cosineannealinglr": "oscillating",
    "exponentiallr": "exponential",
}


class GoldenRecipe(LLBRecipe):
    """A recipe whose backbone has the case's shape instead of a named size."""

    shape: ViTSize

    @property
    def vit(self) -> ViTSize:
        return self.shape


def accuracies(scores: np.ndarray, labels: np.ndarray) -> list[float | None]:
    """top1 and top5, in per cent."""
    return [metric.of(labels, scores) for metric in by_formula("singlelabel")]


def shape_of(config: dict[str, Any]) -> ViTSize:
    if config.get("preset"):
        return SIZES[config["preset"]]
    return ViTSize(config["patch_size"], config["embed_dim"], config["depth"], config["num_heads"])


def recipe_of(config: Settings) -> GoldenRecipe:
    family, shape = config.choice("family", FAMILIES), shape_of(config)
    rule = config.choice("freeze_rule", {name: name for name in ("none", "branch", "substring")}, "branch")
    axes = {"token": False, "token (corrected)": False, "batch (original)": True}
    if family != "swag":
        axes = {"token": False}
    config.only(amp=False)
    training = {}
    if "optimizer" in config:
        training = {
            "optimizer": config["optimizer"].lower(),
            "momentum": config["momentum"],
            "weight_decay": config["weight_decay"],
            **schedule_of(config),
        }
    return GoldenRecipe(
        shape=shape,
        family=family,
        image_size=config["img_size"],
        objects=config["object_size"],
        num_nv_layers=config["num_nvit_layers"],
        target_layer=config["target_layer"] or shape.depth,  # the program's 0 is Python's -1: the last block
        temperature=config["temperature"],
        alpha=config["alpha"],
        freeze=rule != "none",
        legacy_swag_axis=config.choice("token_axis", axes),
        legacy_freeze=rule == "substring" and family == "swag",
        legacy_mae_weight=family == "mae",
        **training,
    )


def schedule_of(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "scheduler": SCHEDULERS[config["scheduler"].lower()],
        "epochs": config["epochs"],
        "lr": config["lr"],
        "decay_epochs": config["lr_step"],
        "milestones": tuple(config["lr_steps"]),
        "gamma": config["lr_gamma"],
        "t_max": config["t_max"],
        "min_lr": config["eta_min"],
    }


def model_of(case: Golden) -> tuple[LLB, LLBRecipe]:
    recipe = recipe_of(case.config)
    with undrawn():
        model = METHOD.build_model(recipe, case.config["num_classes"], "singlelabel")
    assert isinstance(model, LLB)
    model.load_state_dict(METHOD.convert(case.state_dict()))
    return model, recipe


def by_published_name(case: Golden, values: dict[str, Any]) -> dict[str, Any]:
    """Published name -> value of our parameter, in the published shape."""
    ours = METHOD.convert({name: torch.empty(shape, device="meta") for name, (shape, _) in case.layout.items()})
    pairs = zip(case.layout.items(), ours, strict=True)
    return {name: values[our].reshape(shape) for (name, (shape, _)), our in pairs if values[our] is not None}


@torch.no_grad()
def forward(case: Golden) -> dict[str, Any]:
    model, recipe = model_of(case)
    model.eval()
    images, labels = torch.from_numpy(case.input("images")), case.input("labels")
    depth, layers = recipe.vit.depth, recipe.num_nv_layers
    tapped = model.tokens(images, model.tapped_block)
    shares, tokens = model.branch.assign(tapped)
    start = model.branch.embed(tokens)
    final = model.branch.norm(model.branch.structure(start))
    mixed = METHOD.predict(model, images, "singlelabel")["scores"].numpy()
    loss = program_loss(labels, mixed)
    diversity = usage_entropy(object_usage(shares))
    swag = case.config["family"] == "swag"
    sequence_first = partial(torch.transpose, dim0=0, dim1=1) if swag else nn.Identity()
    # What the original's batch axis leaves of the assignment is sequence first too.
    laid_out = sequence_first if recipe.legacy_swag_axis else nn.Identity()
    return {
        "target_features": sequence_first(tapped),
        "visual_attention_last": attention_weights(model.backbone.blocks[-1], model.tokens(images, depth - 1)),
        "nv_attention_0": attention_weights(model.branch.blocks[0], tapped),
        "nv_attention_last": attention_weights(model.branch.blocks[-1], model.branch.structure(start, layers - 2)),
        "assignment": laid_out(shares),
        "assignment_argmax": laid_out(shares.argmax(-1)),
        "assignment_max": laid_out(shares.amax(-1)),
        "nv_tokens": sequence_first(start),
        "nv_final_tokens": sequence_first(final),
        "visual_logits": model.finish(tapped),
        "nv_logits": model.branch(tapped)[0],
        "logits": mixed,
        "loss": objective(torch.tensor(loss), diversity, recipe.entropy_weight),
        "ce_loss": loss,
        "diversity": diversity,
    }


def gradients(case: Golden) -> dict[str, Any]:
    model, recipe = model_of(case)
    images, labels = (torch.from_numpy(case.input(name)) for name in ("images", "labels"))
    terms = METHOD.loss(model, {"image": images, "target": labels}, recipe, "singlelabel")
    terms["loss"].backward()
    found = by_published_name(case, {name: parameter.grad for name, parameter in model.named_parameters()})
    return {
        "logits": model(images, output="training").branch,
        "loss": terms["loss"],
        "ce_loss": terms["classification"],
        "diversity": terms["diversity"],
        "grad_norm_total": nn.utils.get_total_norm(found.values()),
        "grad_norms": {name: found[name].norm() for name in case.outputs["grad_norms"]},
        "grad_probes": {name: found[name] for name in case.outputs["grad_probes"]},
    }


def trajectory(case: Golden) -> dict[str, Any]:
    config = case.config
    model, recipe = model_of(case)
    optimizer = build_optimizer(METHOD.param_groups(model, recipe), recipe)
    steps_per_epoch = config["steps_per_epoch"]
    schedule = METHOD.schedule(recipe, steps_per_epoch)
    rows, epochs = [], []
    for epoch in range(config["epochs"]):
        figures, sizes = [], []
        for position in range(steps_per_epoch):
            batch = {"image": torch.from_numpy(case.input(f"images_{position}"))}
            batch["target"] = torch.from_numpy(case.input(f"labels_{position}"))
            apply_schedule(optimizer, schedule, epoch * steps_per_epoch + position)
            with torch.no_grad():
                scores = model(batch["image"], output="training").branch.numpy()
            terms = METHOD.loss(model, batch, recipe, "singlelabel")
            terms["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            loss, ce, diversity = (terms[name].item() for name in ("loss", "classification", "diversity"))
            rows.append([optimizer.param_groups[0]["lr"], loss, ce, diversity])
            figures.append([loss, accuracies(scores, batch["target"].numpy())[0], ce, diversity])
            sizes.append(len(scores))
        epochs.append(np.average(figures, axis=0, weights=sizes))
    apply_schedule(optimizer, schedule, config["epochs"] * steps_per_epoch)
    state = by_published_name(case, model.state_dict())
    return {
        "columns": ["lr", "loss", "ce_loss", "diversity"],
        "steps": rows,
        "epoch_columns": ["loss_avg", "top1_avg", "ce_avg", "diversity_avg"],
        "epochs": epochs,
        "lr_after_last_scheduler_step": optimizer.param_groups[0]["lr"],
        "final_params": {name: state[name] for name in case.outputs["final_params"]},
    }


def learning_rates(case: Golden) -> dict[str, Any]:
    case.config.only(parameter_groups=1)
    recipe = LLBRecipe(**schedule_of(case.config))
    schedule = METHOD.schedule(recipe, steps_per_epoch=7)
    table = [[epoch, recipe.lr * schedule(7 * epoch)["lr"]] for epoch in range(recipe.epochs)]
    return {"columns": ["epoch", "lr used during that epoch"], "table": table}


def layouts(case: Golden) -> dict[str, Any]:
    config = case.config
    found: dict[str, Any] = {}
    for name, layout in case.layout.items():
        family, size = name.rsplit("_", 1)
        named = METHOD.named_recipe(f"imagenet-{FAMILIES[family]}-{size}").recipe
        recipe = override(
            named,
            {
                "objects": config["object_size"],
                "num_nv_layers": config["num_nvit_layers"],
                "target_layer": config["target_layer"],
                "alpha": config["alpha"],
                "legacy_freeze": family == "swag",
            },
        )
        with names_and_shapes():
            model = METHOD.build_model(recipe, config["num_classes"], "singlelabel")
        parameters = dict(model.named_parameters())
        published = METHOD.convert({key: torch.empty(shape, device="meta") for key, (shape, _) in layout.items()})
        keys = dict(zip(layout, published, strict=True))
        # Position embeddings of SWAG are published sequence first.
        shapes = {
            key: list((parameters[our].transpose(0, 1) if key.endswith("pos_embedding") else parameters[our]).shape)
            for key, our in keys.items()
        }
        if set(keys.values()) != set(parameters):
            raise AssertionError(f"{name}: {set(keys.values()) ^ set(parameters)}")
        backbone = {key: our for key, our in keys.items() if our.startswith("backbone.")}
        found[name] = {
            "img_size": recipe.image_size,
            "backbone_checkpoint_layout": {
                key: [shapes[key], str(parameters[our].dtype).removeprefix("torch.")] for key, our in backbone.items()
            },
            "not_in_backbone_checkpoint": [key for key in keys if key not in backbone],
            "trainable_under_original_freeze": [key for key, our in keys.items() if parameters[our].requires_grad],
            "params_total": sum(p.numel() for p in parameters.values()),
            "params_trainable": sum(p.numel() for p in parameters.values() if p.requires_grad),
        }
    return found


def preprocess(case: Golden) -> dict[str, Any]:
    def image(size: str) -> Image.Image:
        return Image.fromarray(case.input(f"image_{size}"))

    def recipe_for(dataset: str, family: str) -> LLBRecipe:
        short = {"imagenet": "imagenet", "places365": "places", "inaturalist2018": "inat"}[dataset]
        recipe = METHOD.named_recipe(f"{short}-{family}-base").recipe
        # The program normalises augreg by ImageNet's figures on Places and iNaturalist; ours by the weights' own.
        halves = "mean=[0.5, 0.5, 0.5]" in case.config["pipelines"][f"{dataset}/{family}/eval"]
        return override(recipe, {"normalize": "half" if halves else "imagenet"})

    def words(recipe: LLBRecipe, train: bool) -> str:
        """Our pipeline as torchvision's first version prints it."""
        resize, crop, *policies, to_tensor = METHOD.transform(recipe, train=train).transforms
        size = tuple(resize.size) if len(resize.size) == 2 else resize.size[0]
        options = f"interpolation={resize.interpolation.value}, max_size=None, antialias=True"
        mean, std = ([round(value, 4) for value in values] for values in (to_tensor.mean, to_tensor.std))
        steps = [f"Resize(size={size}, {options})", f"CenterCrop(size={tuple(crop.size)})", *map(str, policies)]
        return "     ".join(["Compose(", *steps, "ToTensor()", f"Normalize(mean={mean}, std={std})"]) + " )"

    pairs: dict[str, None] = {}
    for name in case.outputs:
        if not name.startswith("seeded_train"):
            pairs["/".join(name.split("/")[:2])] = None
    case.config.only(combos=[pair.split("/") for pair in pairs])
    for name in case.config["pipelines"]:
        dataset, family, part = name.split("/")
        case.config["pipelines"].only(**{name: words(recipe_for(dataset, family), part == "train")})

    def run(name: str) -> Any:
        if seeded := re.fullmatch(r"seeded_train/(\w+)/(\w+)/(\w+)/torch\.manual_seed\((\d+)\)", name):
            torch.manual_seed(int(seeded[4]))
            return METHOD.transform(recipe_for(seeded[1], seeded[2]), train=True)(image(seeded[3]))
        dataset, family, part, size = name.split("/")
        recipe = recipe_for(dataset, family)
        if part == "eval":
            return METHOD.transform(recipe, train=False)(image(size))
        plain = override(recipe, {"randaugment_ops": 0, "normalize": "unit"})
        return (255 * METHOD.transform(plain, train=True)(image(size))).round().permute(1, 2, 0)

    return {name: run(name) for name in case.outputs}


def position_embedding(case: Golden) -> dict[str, Any]:
    case.config.only(family="swag")
    found = {}
    for (old, new), layout in zip(case.config["pairs_px"], case.layout.values(), strict=True):
        published = case.state_dict(layout)
        state = METHOD.convert(published)
        shape = ViTSize(patch=case.config["patch"], dim=case.config["hidden_dim"], depth=1, heads=1)
        classes, objects = len(state["backbone.head.bias"]), len(state["branch.objects.embeddings"])
        recipe = GoldenRecipe(shape=shape, family="swag", image_size=new, objects=objects, target_layer=1)
        model = METHOD.build_model(recipe, classes, "singlelabel")
        METHOD.load_backbone(model, recipe, published, Path(f"swag{old}.torch"))
        found[f"pos_embedding {old}->{new}"] = model.state_dict()["backbone.pos_embed"].transpose(0, 1)
    return found


def visual(case: Golden) -> dict[str, Any]:
    model, _ = model_of(case)
    model.eval()
    images = torch.from_numpy(case.input("images"))
    objects = object_maps(model, images)
    with torch.no_grad():
        usage = object_usage(model.branch.assign(model.tokens(images, model.tapped_block)).shares)
    return {
        "assignment_argmax": objects.strongest,
        "assignment_max": objects.share,
        "object_usage": usage,
        "patch_entropy": objects.entropy,
        "nv_attention_last_cls_to_patches_mean_over_heads": attention(model, images, 1, "branch", None)[:, 0],
        "visual_attention_last_cls_to_patches_mean_over_heads": attention(model, images, 1, "visual", None)[:, 0],
    }


def metrics(case: Golden) -> dict[str, Any]:
    def probabilities(name: str) -> np.ndarray:
        return torch.from_numpy(case.input(name)).softmax(-1).numpy()

    def shares(kind: str | None) -> Tensor:
        values = torch.from_numpy(case.input("assign_logits"))
        if kind is None:
            return (values / 0.1).softmax(-1)
        one_object = torch.eye(values.shape[-1])[0]
        return (one_object if kind == "collapsed" else torch.full_like(one_object, 1 / len(one_object))).expand_as(
            values
        )

    def run(name: str) -> Any:
        if name == "acc1_acc5_empty_batch":
            return accuracies(np.zeros((0, 10)), np.zeros(0, dtype=np.int64))
        if name == "four_classes_top5":
            return "RuntimeError"  # the program's; ours takes all four classes (tests/methods/test_llb.py)
        if name == "acc1_acc5_ties_outside_target":
            ties = case.inputs["ties_outside_target"]
            return accuracies(np.array(ties["scores"], dtype=np.float32), np.array(ties["labels"]))
        if found := re.fullmatch(r"acc1_acc5_(\w+)", name):
            return accuracies(case.input(f"scores_{found[1]}"), case.input(f"labels_{found[1]}"))
        if found := re.fullmatch(r"diversity(?:_(uniform|collapsed))?_(?:vit|mae|swag)", name):
            return usage_entropy(object_usage(shares(found[1])))
        if found := re.fullmatch(r"loss_of_ce([\d.]+)_div([\d.]+)_alpha([\d.]+)_(vit|mae|swag)", name):
            family = FAMILIES[found[4]]
            recipe = LLBRecipe(family=family, alpha=float(found[3]), legacy_mae_weight=family == "mae")
            return objective(torch.tensor(float(found[1])), torch.tensor(float(found[2])), recipe.entropy_weight)
        if name == "confusion_TT_TF_FT_FF":
            masks = agreement(case.input("y"), case.input("visual_logits"), case.input("nv_logits"))
            return [mask.astype(int) for mask in masks.values()]
        if found := re.fullmatch(r"integration_alpha_([\d.]+)", name):
            mixed, labels = mix(*map(probabilities, ("visual_logits", "nv_logits")), float(found[1])), case.input("y")
            return {
                "ce_on_probabilities": program_loss(labels, mixed),
                "nll_of_probabilities": negative_log_likelihood(labels, mixed),
                "acc1_acc5": accuracies(mixed, labels),
                "argmax": mixed.argmax(-1),
            }
        raise ValueError(f"unknown output '{name}'")

    return {name: run(name) for name in case.outputs if name not in NOT_OWED}


def index(case: Golden) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for path in case.config["image_files"]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        for names, content in case.inputs.items():
            for name in names.split(" and "):
                (root / name).write_text(content)

        def run(name: str) -> Any:
            dataset, split = name.split()[0].split("/")
            if name.endswith("val is None"):
                return True  # the program knows no split "val"; ours calls what it tests on so
            if dataset != "inaturalist2018":
                if split == "val":
                    return None
                split = "val" if split == "test" else split
                found = read_class_folders(root / split)
                return {
                    "class_to_idx": {name: label for label, name in enumerate(found.classes)},
                    "samples": [[f"{split}/{record.path}", record.target] for record in found.records],
                    "len": len(found.records),
                }
            found = read_inaturalist(root, split)
            # Without annotations the program labels every image 0; ours -1, which no training accepts.
            labels = [max(record.target, 0) for record in found.records]
            samples = [[record.path, label] for record, label in zip(found.records, labels, strict=True)]
            return {"samples": samples, "num_classes_attribute": len(set(labels)), "len": len(found.records)}

        return {name: run(name) for name in case.outputs}


def tolerance(case: Golden, output: str) -> Tolerance | None:
    """What a trajectory says in words: final parameters within 2e-5 on nine tenths of the probes."""
    if output == "final_params":
        return Tolerance(atol=2e-5, share=0.9)
    return None


RUNNERS = {
    "fwd": forward,
    "grad": gradients,
    "traj": trajectory,
    "lr": learning_rates,
    "layouts": layouts,
    "preprocess": preprocess,
    "swag": position_embedding,
    "visual": visual,
    "metrics": metrics,
    "index": index,
}

NOT_OWED = dict.fromkeys(
    ("average_meter", "average_meter_print", "progress_lines"), "lines of the program's console; ours prints others"
)

DESCRIPTIVE = {
    "index_*:class_folder_names_in_creation_order*": "readers sort folders by name, in whatever order they were made",
    "lr_*:momentum": "rates do not depend on it",
    "lr_*:weight_decay": "rates do not depend on it",
    "lr_*:steps_per_epoch": "a sentence: the rate holds for a whole epoch",
    "traj_*:lr_steps*": "of the scheduler multisteplr, which the cases `lr` are about",
    "preprocess_*:method_names*": "what the program calls the families",
}
