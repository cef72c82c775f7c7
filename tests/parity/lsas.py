"""LSAS and SENet: the published programs' goldens through the product's networks, recipes, losses and measures."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from attnbias.data.transforms.mixing import cutmix_box, kept_share, mix_images, mix_targets
from attnbias.methods.engine.evaluation.cost import measure_cost
from attnbias.methods.engine.maps import grad_cam, minmax, upsample
from attnbias.methods.engine.metrics import among_highest, singlelabel_measures
from attnbias.methods.engine.outline import names_and_shapes, undrawn
from attnbias.methods.engine.training.optim import apply_schedule, build_optimizer
from attnbias.methods.lsas.attention import channel_attention, class_activation_maps
from attnbias.methods.lsas.convert import convert, infer, our_name
from attnbias.methods.lsas.log import COLUMNS, log_row, log_text, weighted_mean
from attnbias.methods.lsas.loss import smoothed_cross_entropy
from attnbias.methods.lsas.method import METHOD
from attnbias.methods.lsas.model import (
    BasicBlock,
    Bottleneck,
    ResNet,
    SqueezeExcite,
    build_attention,
    build_block,
)
from attnbias.methods.lsas.recipe import LSASRecipe, imagenet_lr
from tests.parity import lsas_bias
from tests.parity.comparison import Tolerance
from tests.parity.golden_case import Golden, Settings, UncomputedSetting

# What the programs' words mean in our recipes -------------------------------------------------------------------------


def published_order(info: str) -> int:
    """The order that the CIFAR program reads out of a run's name."""
    return next((order for order in (5, 4, 3, 2) if f"s{order}" in info), 0 if "s0" in info else 1)


def recipe_of(config: Settings, arch: str | None = None, **more: Any) -> LSASRecipe:
    """The recipe of a case: `family`, `arch` and `kwargs` of the CIFAR or the ImageNet program."""
    arch = arch or config["arch"]
    kwargs = config.get("kwargs", Settings({}))
    found = re.fullmatch(r"(lsas_)?senet(_resnet\d+)?", arch)
    if found is None:
        raise UncomputedSetting(f"setting 'arch' is {arch!r}; known: [lsas_]senet[_resnetDEPTH]")
    senet = found[1] is None
    info = kwargs.get("info", "")
    config.only(family="imagenet" if found[2] else "cifar")
    if found[2]:
        stages = (1, 2, 3, 4) if senet else (3, 4)
        fields = {"network": "imagenet", "depth": int(arch.rsplit("resnet", 1)[1]), "pipeline": "imagenet"}
        fields |= {"zero_init_residual": kwargs.get("zero_init_residual", False)}
    else:
        stages = (1, 2, 3) if senet else (3,)
        names = {"bottleneck": "bottleneck", "Bottleneck": "bottleneck", "BasicBlock": "basic", "basicblock": "basic"}
        fields = {"depth": kwargs["depth"], "block": kwargs.choice("block_name", names, "BasicBlock")}
    order = 0 if senet else published_order(info)
    return LSASRecipe(**fields, order=order, stages=stages, **more)


def classes_of(config: Settings) -> int:
    default = 1000 if "resnet" in config["arch"] else 10
    classes: int = config.get("kwargs", Settings({})).get("num_classes", default)
    config.only(num_classes=classes)
    return classes


def model_of(case: Golden, **more: Any) -> tuple[ResNet, LSASRecipe]:
    """The network of a case with its weights, loaded under the published names."""
    recipe = recipe_of(case.config, **more)
    with undrawn():
        model = METHOD.build_model(recipe, classes_of(case.config), "singlelabel")
    state = METHOD.convert(case.state_dict())
    model.load_state_dict(state)
    told = infer(state)
    assert told.pop("num_classes") == classes_of(case.config)
    wrong = {name: value for name, value in told.items() if getattr(recipe, name) != value and name != "block"}
    assert not wrong, f"the weights tell {wrong} against the case"
    return model, recipe  # type: ignore[return-value]


def tensor(case: Golden, name: str) -> Tensor:
    return torch.from_numpy(case.input(name))


SWITCHES = ("--cos", "--wd-all", "--nowd-bn", "--nowd-fc", "--nowd-conv")


def flags(config: Settings) -> dict[str, Any]:
    """Command-line flags of the ImageNet program as recipe fields."""
    words = list(config.get("flags", []))
    fields: dict[str, Any] = {"warmup_epochs": 5, "milestones": (30, 60, 90), "label_smoothing": 0.1}
    fields |= {"epochs": config.get("epochs", 100)}
    rules = {"--nowd-bn": ("bn",), "--nowd-fc": ("fc",), "--nowd-conv": ("conv", "sub_attention")}
    no_decay = ["bias", *(rule for flag, names in rules.items() if flag in words for rule in names)]
    fields["no_decay"] = () if "--wd-all" in words else tuple(no_decay)
    if "--cos" in words:
        fields["scheduler"] = "cosine"
    values = {
        ("--warmup", "--wp"): "warmup_epochs",
        ("--label-smoothing", "--ls"): "label_smoothing",
        ("--gamma",): "gamma",
        ("--wd", "--weight-decay"): "weight_decay",
        ("--momentum",): "momentum",
    }
    known = {*SWITCHES, "--schedule", *itertools.chain(*values)}
    if unknown := [word for word in words if word.startswith("-") and word not in known]:
        raise UncomputedSetting(f"setting 'flags' holds {unknown}; known: {sorted(known)}")
    for names, field in values.items():
        for place in (words.index(name) for name in names if name in words):
            fields[field] = float(words[place + 1])
    if "--schedule" in words:
        fields["milestones"] = schedule_of(words)
    return fields


def schedule_of(words: list[str]) -> tuple[int, ...]:
    """The numbers after --schedule."""
    numbers = itertools.takewhile(lambda word: not word.startswith("-"), words[words.index("--schedule") + 1 :])
    return tuple(int(word) for word in numbers)


# Networks -------------------------------------------------------------------------------------------------------------


def forward(case: Golden) -> dict[str, Any]:
    model, _ = model_of(case)
    model.eval()
    x, outputs = tensor(case, "x"), {}
    for name in model.stage_names:
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: outputs.__setitem__(f"out_{name}", out.clone())
        )
    with torch.no_grad():
        outputs["logits"] = model(x)
        outputs["features_gap"] = model.features(x).mean((2, 3))
    attended = channel_attention(model, x)
    return {**outputs, **{f"attention:{panel.block}": panel.attention for panel in attended}}


def module(case: Golden) -> dict[str, Any]:
    config, x = case.config, tensor(case, "x")
    blocks = {"bottleneck": Bottleneck, "basicblock": BasicBlock, "basic": BasicBlock}
    kind = config.choice("module", {"se_layer": None, **blocks})
    config.only(family="cifar" if kind else "imagenet")
    if kind is None:
        attention = SqueezeExcite(config["channel"], int(config["sub_attention"]), config["reduction"])
        names = {name: our_name(f"se.{name}").removeprefix("attention.") for name in case.layout}
        attention.load_state_dict({names[name]: value for name, value in case.state_dict().items()})
        whole: nn.Module = attention
    else:
        if "info" in config:
            config.only(order=published_order(config["info"]))
        channels = config["planes"] * kind.expansion
        whole = build_block(kind, config["inplanes"], config["planes"], config.get("stride", 1))
        attention = build_attention("se", channels, config["order"], config.get("reduction", 16))
        whole.attention = attention
        whole.load_state_dict(convert(case.state_dict()))
    whole.eval()
    chain: list[Tensor] = []
    assert isinstance(attention, SqueezeExcite)
    attention.sub_attention.register_forward_pre_hook(
        lambda sub, inputs: chain.extend(v.flatten(1) for v in sub.chain(inputs[0]))
    )
    (panel,) = channel_attention(whole, x)
    with torch.no_grad():
        output = whole(x)
    values = {f"v{i}_logits": v for i, v in enumerate(chain[: len(panel.factors)])}
    return {"output": output, "attention": panel.attention, **values}


def gradients(case: Golden) -> dict[str, Any]:
    model, recipe = model_of(case, label_smoothing=case.config.get("label_smoothing") or 0.0)
    batch = {"image": tensor(case, "x"), "target": tensor(case, "target")}
    model.train()
    logits: list[Tensor] = []
    handle = model.register_forward_hook(lambda _m, _i, out: logits.append(out.detach().clone()))
    loss = METHOD.loss(model, batch, recipe, "singlelabel")["loss"]
    loss.backward()
    handle.remove()
    norms = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    outputs = {"logits": logits[0], "loss": loss, "grad_norm_total": torch.stack(list(norms.values())).norm()}
    for name in case.outputs:
        if name.startswith("grad_norm:"):
            outputs[name] = norms[our_name(name.removeprefix("grad_norm:"))]
        elif name.endswith("_after"):
            outputs[name] = model.get_buffer(our_name(name.removesuffix("_after")))
    return outputs


def initial(case: Golden) -> dict[str, Any]:
    """Means of drawn tensors are noise: only their spread is compared; constants are compared whole."""
    torch.manual_seed(case.config.get("torch_seed", 0))
    model = METHOD.build_model(recipe_of(case.config), classes_of(case.config), "singlelabel")
    ours = model.state_dict()
    outputs = {}
    for name, (mean, std, low, high) in case.raw["data"].items():
        value = ours[our_name(name)].float()
        if std == 0:
            outputs[name] = [float(f(value)) for f in (torch.mean, torch.var, torch.amin, torch.amax)]
        elif value.numel() > 2000:
            outputs[name] = [mean, float(value.std()), low, high]
            assert abs(float(value.mean())) < 5 * std / value.numel() ** 0.5, name
            assert high * 0.7 < float(value.max()) < high * 1.5, name
        else:
            assert 0.5 < float(value.std()) / std < 2, name
    return outputs


# Training -------------------------------------------------------------------------------------------------------------


def trajectory(case: Golden) -> dict[str, Any]:
    config = case.config
    imagenet = config["family"] == "imagenet"
    if imagenet:
        world = config.get("world_size", 1)
        fields = {**flags(config), "lr": imagenet_lr(config["train_batch"] * world)}
        config.only(base_lr=fields["lr"], epoch_metrics_columns=[f"{part}_{m}" for part in PARTS for m in MEASURES])
    else:
        names = {"lr": "lr", "momentum": "momentum", "weight_decay": "weight_decay", "gamma": "gamma"}
        fields = {ours: config[theirs] for theirs, ours in names.items()}
        fields |= {"milestones": tuple(config["schedule"]), "epochs": config["epochs"]}
    model, recipe = model_of(case, **fields)
    optimizer = build_optimizer(METHOD.param_groups(model, recipe), recipe)
    if imagenet:
        rate = {"lr": optimizer.param_groups[0]["lr"]}
        config.only(param_groups=[group | rate for group in described_groups(case, model, optimizer)])
    else:
        config.only(param_groups="one group, all parameters")
        assert len(optimizer.param_groups) == 1
    schedule = METHOD.schedule(recipe, config["steps_per_epoch"])
    losses, rates, epochs = [], [], []
    for epoch in range(config["epochs"]):
        seen: dict[str, list[tuple[float, int]]] = {"loss": [], "top1": [], "top5": []}
        model.train()
        for step in range(epoch * config["steps_per_epoch"], (epoch + 1) * config["steps_per_epoch"]):
            apply_schedule(optimizer, schedule, step)
            batch = {"image": tensor(case, f"x{step}"), "target": tensor(case, f"target{step}")}
            config.only(batch=len(batch["image"]), train_batch=len(batch["image"]))
            terms = METHOD.loss(model, batch, recipe, "singlelabel")
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            for name, value in terms.items():
                seen[name].append((value.item(), len(batch["image"])))
            losses.append(terms["loss"].item())
            rates.append(optimizer.param_groups[0]["lr"])
        train = {name: weighted_mean(values) for name, values in seen.items()}
        valid = evaluate(case, model, recipe)
        measures = MEASURES if imagenet else MEASURES[:2]
        epochs.append([train[name] for name in measures] + [valid[name] for name in measures])
    final = model.state_dict()
    table = "epoch_metrics" if imagenet else "epoch_train_loss_train_top1_valid_loss_valid_top1"
    outputs: dict[str, Any] = {"loss_per_step": losses, "lr_per_step": rates, table: epochs}
    for name in case.outputs:
        if name.startswith("final:"):
            outputs[name] = final[our_name(name.removeprefix("final:"))].flatten()[:16]
    return outputs


PARTS, MEASURES = ("train", "valid"), ("loss", "top1", "top5")


def evaluate(case: Golden, model: nn.Module, recipe: LSASRecipe) -> dict[str, Any]:
    pairs = [pair.split(",") for pair in case.config["eval_batches"]]
    model.eval()
    with torch.no_grad():
        scores = torch.cat([METHOD.predict(model, tensor(case, x), "singlelabel")["scores"] for x, _ in pairs])
    targets = np.concatenate([case.input(target) for _, target in pairs])
    return METHOD.measure(recipe, targets, scores.numpy(), "singlelabel")


def rates(case: Golden) -> dict[str, Any]:
    config = case.config
    if config.choice("script", {"cifar": True, "imagenet": False}):
        recipe = LSASRecipe(
            epochs=config["epochs"], milestones=tuple(config["schedule"]), gamma=config["gamma"], lr=config["lr"]
        )
        copies = 2  # ours are right in the optimiser and in the log alike
        config.only(columns=["epoch", "lr_in_optimizer", "lr_printed_and_logged"])
    else:
        words, typed = config["flags"], flags(config)
        config.only(columns=["epoch", "lr"], cos="--cos" in words)
        if "--warmup" in words or "--wp" in words:
            config.only(warmup=int(typed["warmup_epochs"]))
        if "--schedule" in words:
            config.only(schedule=typed["milestones"])
        if "--gamma" in words:
            config.only(gamma=typed["gamma"])
        base = config.get("lr_override") or imagenet_lr(config["train_batch"] * config["world_size"])
        fields = {**flags(config), "warmup_epochs": config["warmup"], "milestones": tuple(config["schedule"])}
        fields |= {"gamma": config["gamma"], "scheduler": "cosine" if config["cos"] else "step"}
        config.only(base_lr=base)
        recipe, copies = LSASRecipe(**fields, lr=base), 1
    schedule = METHOD.schedule(recipe, steps_per_epoch=3)
    epochs = range(config.get("resume_epoch", 0), config["epochs"])
    return {"table": [[epoch, *[recipe.lr * schedule(3 * epoch + 2)["lr"]] * copies] for epoch in epochs]}


def parameter_groups(case: Golden) -> dict[str, Any]:
    recipe = recipe_of(case.config, **{"weight_decay": 1e-4, **flags(case.config)})
    with names_and_shapes():
        model = METHOD.build_model(recipe, 1000, "singlelabel")
    return {"groups": described_groups(case, model, build_optimizer(METHOD.param_groups(model, recipe), recipe))}


def described_groups(case: Golden, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The optimiser's groups, by published names in the program's order."""
    # SENet's bottlenecks are registered with attention before the shortcut, all others after it.
    early = case.config["arch"].startswith("senet") and "layer1.0.conv3.weight" in model.state_dict()
    names = {id(p): published_name(name) for name, p in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        ordered = [names[id(p)] for p in group["params"]]
        if early:
            ordered = [
                name for block in in_blocks(ordered) for name in sorted(block, key=lambda n: ".downsample." in n)
            ]
        decay = group["weight_decay"] or 0
        groups.append({"weight_decay": decay, "momentum": group["momentum"], "names": ordered})
    return groups


def published_name(name: str) -> str:
    """Our name of an ImageNet network's parameter in the program's words."""
    return name.replace(".attention.sub_attention.", ".se.").replace(".attention.", ".se.")


def in_blocks(names: list[str]) -> list[list[str]]:
    """Cut a list of names where the block changes."""
    blocks: dict[str, list[str]] = {}
    for name in names:
        found = re.match(r"layer\d\.\d+", name)
        blocks.setdefault(found[0] if found else name, []).append(name)
    return list(blocks.values())


def loss(case: Golden) -> dict[str, Any]:
    smoothing = case.config["label_smoothing"]
    logits, target = tensor(case, "logits").requires_grad_(), tensor(case, "target")
    case.config.only(num_classes=logits.shape[1])
    value = smoothed_cross_entropy(logits, target, smoothing)
    value.backward()
    same = nn.functional.cross_entropy(logits.detach(), target, label_smoothing=smoothing)
    return {"loss": value, "grad": logits.grad, "torch_cross_entropy_same_ls": same}


def measures(case: Golden) -> dict[str, Any]:
    if "updates" in case.config:
        updates = [(value, count) for value, count in case.config["updates"]]
        mean, count = weighted_mean(updates), sum(count for _, count in updates)
        return {"avg": mean, "sum": mean * count, "count": count}
    if not case.inputs:
        classes = case.config["num_classes"]
        return {"top5": 100 * among_highest(np.arange(classes), np.eye(classes), 5).mean()}
    scores, step = case.input("output"), case.config.get("round_scores_to")
    case.config.only(topk=[1, 5])
    if step:
        scores = (np.round(scores / step) * step).astype(np.float32)
    return singlelabel_measures(case.input("target"), scores)


# Data -----------------------------------------------------------------------------------------------------------------


def mixing(case: Golden) -> dict[str, Any]:
    config = case.config
    if "center" in config:
        height, width = config["shape"]
        box = cutmix_box(height, width, config["lam"], *config["center"])
        return {"box_r1_c1_r2_c2": box, "lam_corrected": kept_share(box, height, width)}
    lam, permutation = config["lam"], torch.tensor(config["permutation"])
    target = tensor(case, "target")
    mixed = mix_targets(target, permutation, lam, config["num_classes"])
    return {
        "mixed": mix_images(tensor(case, "x"), permutation, lam),
        "target_b": target[permutation],
        "loss": smoothed_cross_entropy(tensor(case, "logits"), mixed, config["label_smoothing"]),
    }


def preprocessing(case: Golden) -> dict[str, Any]:
    recipe = METHOD.recipes[case.config.choice("pipeline", {"imagenet": "imagenet", "cifar": "cifar10"})].recipe
    transform = METHOD.transform(recipe, train=False)
    image = Image.fromarray(case.input("image"))
    geometry = transform.transforms[0]
    return {
        "tensor": transform(image),
        "uint8_after_crop": np.asarray(geometry(image)).transpose(2, 0, 1),
    }


CIFAR_FLAGS = {"--arch", "-d", "--dataset", "--block-name", "--depth", "--epochs", "--schedule", "--gamma", "--wd"}
CIFAR_FLAGS |= {"--train-batch", "--test-batch", "--workers", "--manualSeed", "--info"}


def command_of(case: Golden) -> list[str]:
    """The words of a command line of the CIFAR program."""
    words: list[str] = case.config["argv"]
    if unknown := [word for word in words if word.startswith("-") and word not in CIFAR_FLAGS]:
        raise UncomputedSetting(f"setting 'argv' holds {unknown}; known: {sorted(CIFAR_FLAGS)}")
    return words


def loaders(case: Golden) -> dict[str, Any]:
    """Folders and downloads are the case's own, workers and the test batch its command's, the rest our recipe's."""
    words = command_of(case)
    dataset = words[next(i for i, word in enumerate(words) if word in ("-d", "--dataset")) + 1]
    if dataset not in ("cifar10", "cifar100", "stl10"):
        raise UncomputedSetting(f"setting 'argv' holds the data set {dataset!r}; known: cifar10, cifar100, stl10")
    recipe = METHOD.recipes[METHOD.default_recipe(dataset)].recipe
    workers, test_batch = (int(words[words.index(flag) + 1]) for flag in ("--workers", "--test-batch"))
    ours = []
    for entry, train in zip(case.raw["data"]["loaders"], (True, False), strict=True):
        kwargs = {**entry["kwargs"], "shuffle": train, "num_workers": workers, "batch_size": test_batch}
        if train:
            kwargs |= {"batch_size": recipe.batch_size, **({"drop_last": True} if recipe.drop_last else {})}
        ours.append({**entry, "transform": described(METHOD.transform(recipe, train)), "kwargs": kwargs})
    return {"loaders": ours}


def described(transform: v2.Compose) -> str:
    """Our pipeline in torchvision's first words."""
    geometry, to_tensor = transform.transforms
    lines = []
    for step in geometry.transforms:
        if isinstance(step, v2.RandomCrop):
            lines.append(f"RandomCrop(size={tuple(step.size)}, padding={step.padding[0]})")
        elif isinstance(step, v2.RandomHorizontalFlip):
            lines.append(f"RandomHorizontalFlip(p={step.p})")
    lines += ["ToTensor()", f"Normalize(mean={to_tensor.mean}, std={to_tensor.std})"]
    return "Compose(\n" + "".join(f"    {line}\n" for line in lines) + ")"


# Cost, files, maps ----------------------------------------------------------------------------------------------------


COST_COLUMNS = ["family", "arch", "kwargs", "resolution", "original_counter", "parameters", "conv_linear_macs"]


def cost(case: Golden) -> dict[str, Any]:
    case.config.only(columns=COST_COLUMNS)
    rows = []
    for family, arch, kwargs, resolution, *_ in case.raw["data"]["rows"]:
        config = Settings({"family": family, "arch": arch, "kwargs": kwargs})
        with undrawn():  # on the meta device every operation is decomposed in Python, which takes longer than it does
            model = METHOD.build_model(recipe_of(config), classes_of(config), "singlelabel")
        found = measure_cost(model, resolution)
        rows.append([family, arch, kwargs, resolution, found.operations, found.parameters, found.macs])
    return {"rows": rows}


def run(case: Golden) -> dict[str, Any]:
    """log.txt, rebuilt from records that hold the program's own figures and our learning rates; checkpoint names."""
    words, data = command_of(case), case.raw["data"]
    value = {flag: words[i + 1] for i, flag in enumerate(words) if flag.startswith("--")}
    recipe = recipe_of(
        Settings(
            {
                "arch": value["--arch"],
                "kwargs": {
                    "depth": int(value["--depth"]),
                    "info": value["--info"],
                    "block_name": value["--block-name"],
                },
            }
        ),
        milestones=schedule_of(words),
        gamma=float(value["--gamma"]),
    )
    classes = len(case.state_dict()["fc.bias"])
    METHOD.build_model(recipe, classes, "singlelabel").load_state_dict(METHOD.convert(case.state_dict()))
    schedule = METHOD.schedule(recipe, 1)
    records: list[dict[str, Any]] = []
    for epoch, row in zip(range(int(value["--epochs"])), data["log_txt"].splitlines()[1:], strict=True):
        _, train_loss, valid_loss, train_top1, valid_top1 = map(float, row.split())
        lr = [recipe.lr * schedule(epoch)["lr"]]
        step = {"step": epoch + 1, "epoch": epoch + 1}
        records.append({**step, "split": "train", "lr": lr, "loss": train_loss, "top1": train_top1, "top5": 0.0})
        records.append({**step, "split": "val", "weights": "raw", "loss": valid_loss, "top1": valid_top1, "top5": 0.0})
    cells = log_row(dict.fromkeys(COLUMNS, 1.0)).split("\t")
    return {
        "log_txt": log_text(records),
        "log_columns": log_text([]).rstrip("\n").split("\t"),
        "log_cell_format": ["6 decimals" if re.fullmatch(r"\d+\.\d{6}", cell) else "" for cell in cells],
    }


def gradcam(case: Golden) -> dict[str, Any]:
    model, _ = model_of(case)
    model.eval()
    x = tensor(case, "x")
    classes = torch.tensor(case.config["classes"])[:, None]
    layer = case.config["layer"]
    with torch.no_grad():
        if layer == model.stage_names[-1]:
            signed = class_activation_maps(model, x, classes)
            maps = METHOD.attention(model, x, classes)
        else:
            signed = grad_cam(model, x, classes, model.get_submodule(layer))
            maps = METHOD.attention(model, x, classes, kind=f"gradcam-{layer}")
    return {"signed_map": signed[:, 0], "final_map": minmax(upsample(maps, (x.shape[2], x.shape[3])))[:, 0]}


def tolerance(case: Golden, output: str) -> Tolerance | None:
    """Values are stored with nine digits: a rate cannot be held to a relative 1e-9."""
    stated = case.tolerance.get("per_output", {}).get(output, case.tolerance)
    return Tolerance(atol=stated["atol"], rtol=5e-9) if stated.get("rtol") == 1e-9 and "lr" in case.name else None


RUNNERS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "aug": mixing,
    "cost": cost,
    "data_loaders": loaders,
    "fwd": forward,
    "grad": gradients,
    "init": initial,
    "loss": loss,
    "lr": rates,
    "metric": measures,
    "module": module,
    "param_groups": parameter_groups,
    "prep": preprocessing,
    "run": run,
    "traj": trajectory,
    "vis_gradcam": gradcam,
    **lsas_bias.RUNNERS,
}

NAME_OF_RUN = "a run's name; only s0 to s5 in it count, and there are cases of them"
DESCRIPTIVE = {
    **lsas_bias.DESCRIPTIVE,
    "aug_*:sampling": "a sentence about draws, which the case fixes",
    **{
        f"data_loaders_*:argv[[]--{flag}]": "of the network and its training"
        for flag in ("arch", "block-name", "depth", "epochs", "schedule", "gamma", "wd", "manualSeed", "info")
    },
    "data_loaders_*:argv[[]--train-batch]": "the case's loader has the recipe's batch",
    "run_*:argv[[]--*-batch]": "the log holds no sizes",
    "run_*:argv[[]--dataset]": "the weights tell the number of classes",
    "run_*:argv[[]--wd]": "the log does not show it",
    "run_*:argv[[]--workers]": "the log does not show it",
    "run_*:argv[[]--manualSeed]": "the log's figures are the program's own",
    "init_*:torch_seed": "only the spread of drawn weights is compared",
    "metric_fewer_than_5_classes:num_classes": "the program fails there; ours takes all classes",
    "metric_*:ambiguous_samples_because_of_ties*": "says how wide the case's tolerance had to be",
    "*:kwargs.info": NAME_OF_RUN,
    "module_*:info": NAME_OF_RUN,
    "run_*:argv[[]--info]": NAME_OF_RUN,
    "init_*:kwargs.num_classes": "only the spread of drawn weights is compared",
}
