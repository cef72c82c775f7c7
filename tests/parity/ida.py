"""Runs IDA's golden cases: the product's code as each case's config says."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torchvision.transforms import v2

from attnbias.data.datasets import ImageDataset
from attnbias.data.sets.coco import read_coco
from attnbias.data.sets.voc import read_voc
from attnbias.data.transforms.cutout import cut_out
from attnbias.data.transforms.multiscale_crop import crop_offsets, crop_sizes
from attnbias.data.transforms.randaugment import OPERATIONS, STEPS, apply_operation
from attnbias.methods.engine.metrics import average_precision
from attnbias.methods.engine.outline import undrawn
from attnbias.methods.engine.recipe import override, parse
from attnbias.methods.engine.training.optim import apply_schedule, build_optimizer
from attnbias.methods.ida.convert import convert, convert_classifier
from attnbias.methods.ida.curves import reference_curves
from attnbias.methods.ida.loss import asymmetric_loss, classification_loss
from attnbias.methods.ida.method import METHOD
from attnbias.methods.ida.model import IDA, InterventionalClassifier, LinearClassifier
from attnbias.methods.ida.recipe import IDARecipe, best_of
from tests.parity.comparison import Tolerance
from tests.parity.golden_case import Golden, UncomputedSetting
from tests.parity.once import compute_once

BACKBONES = {
    "swim_transformer": "swin_base_patch4_window12_384",
    "swim_transformer_large": "swin_large_patch4_window12_384",
}
SCHEDULERS = {"OneCycleLR": "onecycle", "MultiStepLR": "multistep"}
OPTIMIZERS = {"Adam": "adam", "Adam_twd": "adam", "AdamW": "adamw", "SGD": "sgd"}
GROUPS = {"add_weight": "no_decay_1d", "single_lr": "single", "mutil_lr": "backbone_factor"}
FLAGS = {"--lr_scheduler", "--pattern_parameters", "--optim", "--lr", "--wd", "--momentum", "--epoch_step", "--epochs"}
FLAGS |= {"--warmup_scheduler", "--warmup_epoch", "--batch-size", "--num_class", "--nheads", "--heavy", "--ema-decay"}
FLAGS |= {"--use_intervention", "--early-stop"}
# Names, files, machines, and the asymmetric loss, which the program reads and does not use.
FLAGS |= {"-a", "--dataname", "--seed", "--pretrained", "--print-freq", "--gamma_pos", "--gamma_neg", "--dtgfl"}
FLAGS |= {"--loss_clip"}
STORED = 24
"""Trajectories keep this many evenly spaced elements of a tensor."""


def tensor(value: Any) -> Tensor:
    return torch.from_numpy(np.asarray(value))


# Models ---------------------------------------------------------------------------------------------------------------


def build(case: Golden, **changes: Any) -> IDA:
    """The case's model under the case's weights; features stand for images where the backbone is the identity."""
    config = case.config
    backbone = config.get("backbone", "identity")
    identity = backbone.startswith("identity")
    fields = {
        "backbone": "tiny" if identity else BACKBONES.get(backbone, backbone),
        "classifier": "interventional" if config.get("use_intervention", True) else "linear",
        "samples": config.get("num_head", config.get("nheads", 4)),
        "heavy": config["heavy"],
        "beta": config.get("beta", 1 / 32),
        **changes,
    }
    if identity:
        weights = [name for name in case.layout if name in ("clf.weight", "weight") or "head." in name]
        dim, classes = sum(case.layout[name][0][1] for name in weights), config["num_classes"]
        if backbone not in ("identity", f"identity(num_channels={dim}): feats = images"):
            raise UncomputedSetting(f"setting 'backbone' is {backbone!r}; the weights take {dim} channels as they are")
        options = {name: fields[name] for name in ("samples", "heavy", "beta")}
        linear = fields["classifier"] == "linear"
        head = LinearClassifier(dim, classes) if linear else InterventionalClassifier(dim, classes, **options)
        model = IDA(nn.Identity(), head)
    else:
        size = case.inputs["images"]["shape"][-1] if "images" in case.inputs else case.inputs["train_x"]["shape"][-1]
        recipe = parse(IDARecipe, fields | {"image_size": size})
        with undrawn():
            built = METHOD.build_model(recipe, config["num_classes"], "multilabel")
        assert isinstance(built, IDA)
        model = built
        head = model.head
        dim = head.fc.in_features if isinstance(head, LinearClassifier) else head.weight[:, 0].numel()
        if "n_params" in config:
            config.only(n_params=sum(p.numel() for p in model.parameters()))
    config.only(feat_dim=dim)
    state = convert(case.state_dict())
    if not any(name.startswith("clf.") for name in case.layout):
        state = {f"head.{name}": value for name, value in convert_classifier(case.state_dict()).items()}
    model.load_state_dict(state)
    return model.eval()


def published(case: Golden, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the published names: the converter, run on element numbers, tells what went where."""
    numbers, start = {}, 0
    for name, (shape, _) in case.layout.items():
        size = int(np.prod(shape))
        numbers[name] = torch.arange(start, start + size).reshape(shape)
        start += size
    flat = torch.full((start,), torch.nan, dtype=torch.float64)
    for name, place in convert(numbers).items():
        if name in values:
            flat[place.flatten()] = values[name].detach().double().flatten()
    return {name: flat[place] for name, place in numbers.items()}


def clf(case: Golden) -> dict[str, Any]:
    model = build(case)
    features = tensor(case.input("feats"))
    with torch.no_grad():
        trace = model.head.trace(features)
        logits = model(features)
    return {
        "logits": logits,
        "spatial_attention": trace.spatial.transpose(1, 2),
        "token_sequence": trace.tokens,
        "token_output": trace.mixed,
    }


def full(case: Golden) -> dict[str, Any]:
    model = build(case)
    images = tensor(case.input("images"))
    compute_once(model.backbone)
    with torch.no_grad():
        outputs = {"logits": model(images), "feats": model.backbone(images)}
        if isinstance(model.head, InterventionalClassifier):
            samples = range(len(model.head.weight))
            maps = [METHOD.attention(model, images, kind="spatial", head=sample) for sample in samples]
            outputs["spatial_attention"] = torch.stack(maps, 2)
    return outputs


def grad(case: Golden) -> dict[str, Any]:
    model = build(case).train()
    images, target = tensor(case.input("images")), tensor(case.input("labels"))
    logits = model(images)
    loss = classification_loss(logits, target, IDARecipe(loss_batch=len(images)), "multilabel")
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    norms = {name: value.norm() for name, value in published(case, gradients).items()}
    return {"logits": logits, "loss": loss, "grad_norm_total": total, "grad_norms": norms}


# Losses, measures, schedules, selection -------------------------------------------------------------------------------


def loss(case: Golden) -> dict[str, Any]:
    target = tensor(case.input("labels"))
    logits = tensor(case.input("logits")) * case.config["logit_scale"]

    def run(function: Any) -> tuple[Tensor, Tensor]:
        leaf = logits.clone().requires_grad_()
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value, gradient

    outputs: dict[str, Any] = {}
    recipe = IDARecipe(loss="bce_sum" if case.config["reduction"] == "sum" else "bce_mean", loss_batch=len(logits))
    outputs["loss"], outputs["grad"] = run(lambda x: classification_loss(x, target, recipe, "multilabel"))
    for name in [name for name in case.outputs if name.startswith("asl_gn")]:
        gamma_neg, gamma_pos, clip = (
            float(part[skip:]) for part, skip in zip(name.split("_")[1:], (2, 2, 4), strict=True)
        )
        options = {
            "gamma_pos": gamma_pos,
            "gamma_neg": gamma_neg,
            "clip": clip,
            "detach_focus": case.config["dtgfl"],
            "eps": case.config["asl_eps"],
        }
        outputs[name], outputs[name.replace("asl_", "asl_grad_")] = run(
            lambda x, options=options: asymmetric_loss(x, target, **options)
        )
    return outputs


def metric(case: Golden) -> dict[str, Any]:
    count, classes = case.input("labels").shape
    case.config.only(n=count, num_class=classes)
    aps = 100 * average_precision(case.input("labels"), case.input("scores"), "interpolated")
    # The program's mean keeps the NaN of a class without positives; ours (METHOD.measure) leaves the class out.
    measured = METHOD.measure(IDARecipe(), case.input("labels"), case.input("scores"), "multilabel")["mAP"]
    return {"aps": aps, "mAP": np.nan if np.isnan(aps).any() else measured}


def sched(case: Golden) -> dict[str, Any]:
    config = case.config
    steps, lrs = config["steps_per_epoch"], config["group_lrs"]
    kind, _, optimizer_name = config["kind"].partition("-")
    if kind not in SCHEDULERS or optimizer_name not in ("", *OPTIMIZERS):
        raise UncomputedSetting(f"setting 'kind' is {config['kind']!r}; known: {list(SCHEDULERS)}, then -OPTIMIZER")
    scheduler = SCHEDULERS[kind]
    shared = bool(lrs) and scheduler == "onecycle"
    if lrs and lrs[1] != config["lr"]:
        raise UncomputedSetting(f"setting 'group_lrs' is {lrs}; the second one is lr, {config['lr']}")
    recipe = parse(
        IDARecipe,
        {
            "lr": config["lr"],
            "epochs": config["epochs"],
            "scheduler": scheduler,
            "pct_start": config["pct_start"],
            "milestones": config["milestones"] or (),
            "warmup_epochs": config["warmup_epochs"],
            "optimizer": OPTIMIZERS[optimizer_name or "Adam"],
            "param_groups": "backbone_factor" if lrs else "single",
            "backbone_lr_factor": lrs[0] / lrs[1] if lrs else 0.1,
            "legacy_shared_lr": shared,
        },
    )
    model = IDA(nn.Conv2d(3, 4, 1), InterventionalClassifier(4, 1, samples=1))
    optimizer = build_optimizer(METHOD.param_groups(model, recipe), recipe)
    schedule = METHOD.schedule(recipe, steps)
    columns = case.raw["columns"]
    shape, values = case.outputs["table"]["shape"], case.outputs["table"]["values"]
    rows = []
    for row in np.reshape(values, shape):
        epoch, iteration = int(row[columns.index("epoch")]), int(row[columns.index("iteration")])
        apply_schedule(optimizer, schedule, epoch * steps + iteration)
        group = optimizer.param_groups
        ours = {"epoch": epoch, "iteration": iteration, "beta1_or_momentum": momentum_of(group[0])}
        ours |= {f"lr_group{position}": part["lr"] for position, part in enumerate(group)}
        rows.append([ours[name] for name in columns])
    return {"table": np.array(rows)}


def momentum_of(group: dict[str, Any]) -> float:
    return group["betas"][0] if "betas" in group else group["momentum"]


def select(case: Golden) -> dict[str, Any]:
    config, given = case.config, case.raw["given"]
    patience = config["patience"]
    recipe = IDARecipe(patience=patience if config["early_stop"] else None)
    history: list[dict[str, Any]] = []
    events: list[list[Any]] = []
    sequences = [given[f"mAP_{name}_per_epoch"] for name in ("model", "ema")]
    config.only(epochs=len(sequences[0]))
    for raw, ema in zip(*sequences, strict=True):
        history.append({"raw": raw, "ema": ema})
        best = best_of(history)
        assert best is not None
        if best.position == len(history) - 1:
            events.append([best.position + 1, best.value, "ema" if best.weights == "ema" else "model"])
        if METHOD.should_stop(recipe, history):
            break
    return {
        "epochs_run": len(history),
        "saved_events_epochplus1_best_mAP_source": events,
        "final_best_mAP": events[-1][1],
    }


# Images and labels --------------------------------------------------------------------------------------------------


def evaluation(case: Golden) -> dict[str, Any]:
    config = case.config
    plain = config.get("orid_norm") or config.get("remove_norm")
    recipe = IDARecipe(image_size=config["img_size"], normalize="unit" if plain else "imagenet")
    transform = METHOD.transform(recipe, train=False)
    config.only(repr=in_words(transform))
    return {"tensor": transform(Image.fromarray(case.input("picture")))}


def in_words(pipeline: v2.Compose) -> str:
    """Our evaluation transform as torchvision's first version prints it."""
    resize, to_tensor = pipeline.transforms
    options = f"interpolation={resize.interpolation.value}, max_size={resize.max_size}, antialias={resize.antialias}"
    mean, std = (f"[{', '.join(f'{value:g}' for value in values)}]" for values in (to_tensor.mean, to_tensor.std))
    steps = [f"Resize(size={tuple(resize.size)}, {options})", "ToTensor()", f"Normalize(mean={mean}, std={std})"]
    return "\n    ".join(["Compose(", *steps]) + "\n)"


def cutout(case: Golden) -> dict[str, Any]:
    config, before = case.config, case.input("picture")
    config.only(size=before.shape[0])
    centre = config["first_draw"], config["second_draw"]
    after = np.asarray(cut_out(Image.fromarray(before), *centre, config["length"], tuple(config["colour"])))
    rows, columns = np.nonzero((after == config["colour"]).all(-1) & (after != before).any(-1))
    box = [rows.min(), rows.max(), columns.min(), columns.max()]
    return {"picture": after, "box_rows_min_max_cols_min_max": box}


def randaugment(case: Golden) -> dict[str, Any]:
    if "n_policies" in case.config:
        case.config.only(
            n_policies=len(STEPS) ** 2,
            ops=list(OPERATIONS),
            prob_each=0.5,
            magnitude_indices=f"{STEPS[0][1]}..{STEPS[-1][1]}",
            magnitudes_index_0_to_9={name: list(each.magnitudes) for name, each in OPERATIONS.items()},
        )
        return {"n_policies": len(STEPS) ** 2}
    image = Image.fromarray(case.input("picture"))
    sign = -1 if "forced to -1" in case.raw["what"] else 1
    return {
        f"{name}:{place}": np.asarray(apply_operation(image, name, place, sign)) for name, place in case.config["ops"]
    }


def multiscale_crop(case: Golden) -> dict[str, Any]:
    config = case.config
    image = (config["picture"], config["picture"])
    pairs = crop_sizes(image, config["input_size"], config["scales"], config["max_distort"])
    words = case.raw["what"]
    crop = tuple(int(words.split(f"{side}=")[1].split(",")[0].rstrip(")")) for side in "wh")
    return {"pairs": pairs, "offsets": crop_offsets(image, crop)}


def index(case: Golden) -> dict[str, Any]:
    config, recipe = case.config, IDARecipe()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if "annotation_json" in config:
            text = config["annotation_json"]
            file = root / "instances.json"
            file.write_text(text if isinstance(text, str) else json.dumps(text))
            found = read_coco(file, root, class_order="id")
            numbers = sorted(entry["id"] for entry in json.loads(file.read_text())["categories"])
            positions = {str(number): position for position, number in enumerate(numbers, start=1)}
            config.only(category_map_original_id_to_1based_index=positions)
            names: dict[str, Any] = {
                "row_image_ids": [record.image_id for record in found.records],
                "file": "COCO2014/label_npy/train_label_vectors_coco14.npy",
                "dtype": "float64",
            }
        else:
            for part in ("Annotations", "ImageSets/Main"):
                (root / part).mkdir(parents=True)
            for name, text in config["xml_files"].items():
                (root / "Annotations" / name).write_text(text)
            (root / "ImageSets/Main" / config["list_file_name"]).write_text(config["list_file_text"])
            found = read_voc(root, Path(config["list_file_name"]).stem, missing="skip")
            names = {"names": [Path(record.path).stem for record in found.records], "dtype": "float32"}
    dataset = ImageDataset(found, lambda image: image, unknown=recipe.unknown_train)
    return {"labels": dataset.targets, **names}


# Training -------------------------------------------------------------------------------------------------------------


def traj(case: Golden) -> dict[str, Any]:
    config = case.config
    flags = command_flags(config["command"])
    scheduler = SCHEDULERS[flags["--lr_scheduler"][0]]
    groups = GROUPS[flags["--pattern_parameters"][0]]
    config.only(
        amp=False,
        optimizer=flags["--optim"][0].removesuffix("_twd"),
        lr=float(flags["--lr"][0]),
        epochs=int(flags["--epochs"][0]),
        batch_size=int(flags["--batch-size"][0]),
        num_classes=int(flags["--num_class"][0]),
        nheads=int(flags["--nheads"][0]),
        heavy="--heavy" in flags,
        use_intervention="--use_intervention" in flags,
        early_stop="--early-stop" in flags,
        ema_decay=float(flags["--ema-decay"][0]),
    )
    recipe = parse(
        IDARecipe,
        {
            "epochs": config["epochs"],
            "batch_size": config["batch_size"],
            "loss_batch": config["batch_size"],
            "optimizer": OPTIMIZERS[config["optimizer"]],
            "lr": config["lr"],
            "weight_decay": float(flags["--wd"][0]),
            "momentum": float(flags.get("--momentum", ["0.9"])[0]),
            "param_groups": groups,
            "scheduler": scheduler,
            "milestones": [int(epoch) for epoch in flags.get("--epoch_step", [])],
            "warmup_epochs": int(flags.get("--warmup_epoch", ["2"])[0]) if "--warmup_scheduler" in flags else 0,
            "ema_decay": config["ema_decay"],
            "legacy_shared_lr": groups == "backbone_factor" and scheduler == "onecycle",
        },
    )
    steps, size = config["steps_per_epoch"], config["batch_size"]
    train_x, train_y, val_x, val_y = (tensor(case.input(name)) for name in ("train_x", "train_y", "val_x", "val_y"))
    model = build(case)
    ema = ModelEmaV3(model, decay=recipe.ema_decay)
    optimizer = build_optimizer(METHOD.param_groups(model, recipe), recipe)
    config.only(
        weight_decay_per_group=[group["weight_decay"] for group in optimizer.param_groups],
        group_param_names=[published_names(case, model, group["params"]) for group in optimizer.param_groups],
    )
    schedule = METHOD.schedule(recipe, steps)
    losses, rates, momenta, evaluations = [], [], [], []
    for step in range(recipe.epochs * steps):
        rows = slice(step % steps * size, (step % steps + 1) * size)
        model.train()
        apply_schedule(optimizer, schedule, step)
        rates.append([group["lr"] for group in optimizer.param_groups])
        momenta.append([momentum_of(group) for group in optimizer.param_groups])
        value = METHOD.loss(model, {"image": train_x[rows], "target": train_y[rows]}, recipe, "multilabel")["loss"]
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model)
        losses.append(value.item())
        if step % steps == steps - 1:
            evaluations += [evaluate(network, val_x, val_y, recipe, size) for network in (model, ema.module)]
    outputs = {
        "train_loss_per_step": losses,
        "lr_per_step_and_group": rates,
        "beta1_or_momentum_per_step_and_group": momenta,
        "val_loss_mAP_per_epoch_model_then_ema": evaluations,
    }
    final = {"": published(case, model.state_dict()), "ema": published(case, ema.module.state_dict())}
    for name in case.outputs:
        if name.startswith("final_"):
            kind, published_name = name.split(":", 1)
            value = final["ema" if "ema" in kind else ""][published_name].flatten()
            stride = max(1, len(value) // STORED) if "param" in kind or kind == "final_ema" else 1
            outputs[name] = value[::stride][:STORED]
    return outputs


def command_flags(command: str) -> dict[str, list[str]]:
    """Flags of the program's command line with their values; a flag that no case may have raises UncomputedSetting."""
    flags: dict[str, list[str]] = {}
    for word in command.split():
        if word.startswith("-"):
            flags[word] = []
        else:
            flags[list(flags)[-1]].append(word)
    if unknown := flags.keys() - FLAGS:
        raise UncomputedSetting(f"setting 'command' holds {sorted(unknown)}; known: {sorted(FLAGS)}")
    return flags


def published_names(case: Golden, model: nn.Module, parameters: list[Tensor]) -> list[str]:
    """The published names of some of our parameters, in the published order."""
    held = {id(parameter) for parameter in parameters}
    values = {name: torch.zeros_like(p) for name, p in model.named_parameters() if id(p) in held}
    return [name for name, value in published(case, values).items() if not value.isnan().any()]


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, target: Tensor, recipe: IDARecipe, size: int) -> list[float]:
    """[loss, mAP] of the validation part; the loss as the program logs it, its batches' sums averaged over images."""
    model.eval()
    total = 0.0
    for x, y in zip(images.split(size), target.split(size), strict=True):
        summed = override(recipe, {"loss_batch": len(x)})
        total += len(x) * METHOD.loss(model, {"image": x, "target": y}, summed, "multilabel")["loss"].item()
    scores = METHOD.predict(model, images, "multilabel")["scores"].numpy()
    return [total / len(images), METHOD.measure(recipe, target.numpy(), scores, "multilabel")["mAP"]]


def reference(case: Golden) -> dict[str, Any]:
    return dict(reference_curves())


def tolerance(case: Golden, output: str) -> Tolerance | None:
    """Forms that trajectories have of their own: by step, and by column of (loss, mAP)."""
    if output == "final_best_mAP":
        return Tolerance(rtol=1e-8)  # stored with nine digits
    entry = case.tolerance.get("per_output", {}).get(output)
    if output == "train_loss_per_step" and entry and "later" in entry:
        count = case.outputs[output]["shape"][0]
        parts = [entry["first_2_steps"]] * 2 + [entry["later"]] * (count - 2)
        return Tolerance(atol=[part["atol"] for part in parts], rtol=[part["rtol"] for part in parts])
    if output == "val_loss_mAP_per_epoch_model_then_ema" and entry:
        rows = case.outputs[output]["shape"][0]
        relative = [entry.get(name, entry.get("loss_rtol")) for name in ("model_loss_rtol", "ema_loss_rtol")]
        rtol = np.array([[relative[row % 2], 0.0] for row in range(rows)])
        return Tolerance(atol=np.array([0.0, entry["mAP_atol"]]), rtol=rtol)
    return None


RUNNERS = {
    "clf": clf,
    "cutout": cutout,
    "eval": evaluation,
    "full": full,
    "grad": grad,
    "index": index,
    "loss": loss,
    "metric": metric,
    "multiscalecrop": multiscale_crop,
    "randaugment": randaugment,
    "reference": reference,
    "sched": sched,
    "select": select,
    "traj": traj,
}

DESCRIPTIVE = {
    "full_*_linear:num_head": "of the interventional classifier",
    "full_*_linear:heavy": "of the interventional classifier",
    "full_*_linear:beta": "of the interventional classifier",
    "metric_*:world_size": "rows of all processes are joined, whatever their number",
    "index_voc07:list_file_text": "names without an annotation are passed over",
    "sched_onecycle_twogroups*:group_lrs[[]0]": "OneCycleLR overrules the rate of a group",
    "sched_multistep*:pct_start": "of OneCycleLR",
    "select_no_early_stop_flag:patience": "of --early-stop",
    "traj_*:saved_best*": "what the program chose; the cases `select` are about that",
    "traj_*:early_stop": "cases are shorter than the program's patience",
}
