"""The vision-language recipe of AbSViT: its fields, its schedule, and the program's named recipes. No torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from attnbias.methods.absvit.recipe import Architecture, in_whole_patches
from attnbias.methods.engine.recipe import NamedRecipe, Recipe, again, option
from attnbias.methods.engine.schedules import by_step, cosine, polynomial, total_steps, warm_up
from attnbias.methods.engine.types import Fields, Schedule

TextTask = Literal["vqa", "snli-ve", "nlvr2", "retrieval"]
TextEncoder = Literal["roberta-base", "roberta-large", "tiny"]

TEXT_ENCODERS: dict[str, dict[str, int]] = {
    "roberta-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "roberta-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256},
}
"""Options of RobertaConfig. `tiny` is ours, for a CPU."""


class VisionLanguageRecipe(Recipe):
    """Everything that decides a vision-language run. Defaults are the README's VQA command: 6 processes x 24 x 3."""

    at_random: ClassVar[Fields] = {**Recipe.at_random, "text_weights": None}

    task: TextTask = option(
        "vqa", "What is asked of image and text; a recipe is of one task, `--recipe` picks another.", "Data"
    )
    dataset: str = again("dataset", "vqav2")
    train_split: str | None = option(
        None,
        "Split to train on; none = the set's own, which is the program's (vqav2: trainval, val2014 in it).",
        "Data",
    )
    image_size: int = again("image_size", 224)
    normalize: Literal["clip", "imagenet", "half"] = option(
        "clip", "Pixel normalisation: clip or imagenet = that set's mean and std, half = [-1, 1].", "Data"
    )
    rand_augment: bool = option(
        True, "RandAugment in training: 2 of 14 operations, magnitude 9 of 30.", "Training data"
    )
    tokenizer: str = option(
        "roberta-base",
        "Tokenizer: a folder with its files, a name in the local Hugging Face cache, or `words` = the "
        "prepared set's own words.",
        "Data",
    )
    max_text_length: int = option(50, "Tokens of a text; longer ones are cut.", "Data", ge=4)
    false_texts: int = option(0, "Wrong captions drawn for each image (retrieval).", "Training data", ge=0)

    epochs: int = again("epochs", 10)
    batch_size: int = again("batch_size", 432)
    optimizer: Literal["sgd", "adam", "adamw"] = option(
        "adamw", "sgd (momentum), adam (coupled L2) or adamw (betas 0.9, 0.98).", "Training"
    )
    lr: float = option(1e-5, "Base learning rate: vision, text, embeddings.", "Training", gt=0)
    lr_head: float = option(50.0, "Factor on the rate of the task's head.", "Training", gt=0)
    lr_fusion: float = option(10.0, "Factor on the rate of the fusion layers.", "Training", gt=0)
    lr_feedback: float = option(3.0, "Factor on the rate of decoders and prompt decoder.", "Training", gt=0)
    weight_decay: float = option(0.01, "Weight decay; biases and norms have none.", "Training", ge=0)
    scheduler: Literal["polynomial", "cosine"] = option(
        "polynomial", "Decay after the warm-up, by optimiser step.", "Training"
    )
    warmup_steps: float = option(
        0.1, "Linear warm-up: a share of the steps, or a number of them (from 1 on).", "Training"
    )
    power: float = option(
        1.0, "Power of the polynomial decay; 1 = linear.", "Training", gt=0, beside={"scheduler": "polynomial"}
    )
    min_lr: float = option(
        0.0, "Base rate that the polynomial decay ends at.", "Training", ge=0, beside={"scheduler": "polynomial"}
    )
    freeze_backbone: bool = option(
        False, "Train only fusion, head and feedback; text encoder and blocks stand still.", "Training"
    )
    legacy_groups: bool = option(
        False, "Leave the prompt decoder's bias out of the optimiser, as the program does by oversight.", "Training"
    )

    architecture: Architecture = option("base_patch16", "Size of the vision transformer (always with a class token).")
    top_down: bool = option(True, "The second pass, steered by the text; False = the plain ViT of the same size.")
    feedback_gain: float = option(5.0, "Factor on the tokens that are fed back.", ge=0)
    reconstruction_weight: float = option(
        0.3, "Weight of the decoders' reconstruction error in the loss; the program has it for VQA alone.", ge=0
    )
    prompt_pool: Literal["all", "masked", "end"] = option(
        "all",
        "What of the text steers: mean of all positions with padding (the program, VQA), mean of the words, or the "
        "end token (the program, other tasks).",
    )
    text_encoder: TextEncoder = option("roberta-base", "Size of the text encoder; tiny is for a CPU.")
    text_weights: str | None = option(
        "roberta-base",
        "Where the text encoder starts: a folder, or a name in the local Hugging Face cache; none = random.",
    )
    vocabulary: int = option(50265, "Tokens that the text encoder knows.", ge=5, often=False)
    text_dropout: float = option(0.1, "Dropout of the text encoder.", ge=0, lt=1, often=False)
    fusion_width: int = option(768, "Channels of the fusion layers.", ge=1, often=False)
    fusion_heads: int = option(12, "Attention heads of the fusion layers.", ge=1, often=False)
    fusion_layers: int = option(6, "Pairs of fusion layers.", ge=1, le=256, often=False)
    fusion_mlp: int = option(
        4, "Hidden channels of the fusion layers, as a multiple of fusion_width.", ge=1, le=256, often=False
    )
    dropout: float = option(0.1, "Dropout of the fusion layers.", ge=0, lt=1, often=False)

    @model_validator(mode="after")
    def _check_shapes(self) -> VisionLanguageRecipe:
        in_whole_patches(self.architecture, self.image_size)
        if self.fusion_width % self.fusion_heads:
            raise ValueError(f"fusion_width {self.fusion_width} is not a multiple of fusion_heads, {self.fusion_heads}")
        if self.task == "retrieval" and not self.false_texts:
            raise ValueError("retrieval learns from wrong captions: false_texts must be 1 or more")
        return self


def schedule(recipe: VisionLanguageRecipe, steps_per_epoch: int) -> Schedule:
    """A linear warm-up from 0, then a polynomial or half a cosine.

    transformers calls them get_polynomial_decay_schedule_with_warmup and get_cosine_schedule_with_warmup.
    """
    last = total_steps(recipe, steps_per_epoch)
    warmup = int(recipe.warmup_steps * last if recipe.warmup_steps < 1 else recipe.warmup_steps)
    length = max(1, last - warmup)
    decay = (
        cosine(length) if recipe.scheduler == "cosine" else polynomial(length, recipe.power, recipe.min_lr / recipe.lr)
    )
    return by_step(warm_up(decay, warmup, how="precedes"))


# Named recipes --------------------------------------------------------------------------------------------------------

README = "README of the authors' program"
CONFIG = "task settings of the authors' program; images of 224 pixels, the only size that its ViTs take"

TASKS: dict[str, Fields] = {
    "vqa": {},
    "snli-ve": {
        "task": "snli-ve",
        "dataset": "snli-ve",
        "epochs": 5,
        "batch_size": 64,
        "lr": 2e-6,
        "lr_head": 10.0,
        "lr_fusion": 5.0,
        "lr_feedback": 1.0,
        "rand_augment": False,
        "reconstruction_weight": 0.0,
        "prompt_pool": "end",
    },
    "nlvr2": {
        "task": "nlvr2",
        "dataset": "nlvr2",
        "batch_size": 256,
        "lr_head": 10.0,
        "lr_fusion": 5.0,
        "lr_feedback": 1.0,
        "rand_augment": False,
        "reconstruction_weight": 0.0,
        "prompt_pool": "end",
    },
    "retrieval-flickr30k": {
        "task": "retrieval",
        "dataset": "flickr30k",
        "batch_size": 512,
        "lr_head": 5.0,
        "max_text_length": 40,
        "false_texts": 15,
        "reconstruction_weight": 0.0,
        "prompt_pool": "end",
    },
    "retrieval-coco": {
        "task": "retrieval",
        "dataset": "coco-captions",
        "batch_size": 512,
        "lr": 5e-6,
        "lr_head": 5.0,
        "lr_fusion": 5.0,
        "lr_feedback": 1.0,
        "rand_augment": False,
        "max_text_length": 40,
        "false_texts": 15,
        "reconstruction_weight": 0.0,
        "prompt_pool": "end",
    },
}

TINY: Fields = {
    "image_size": 64,
    "architecture": "mini_patch8",
    "tokenizer": "words",
    "text_encoder": "tiny",
    "text_weights": None,
    "vocabulary": 10000,
    "max_text_length": 32,
    "fusion_width": 128,
    "fusion_heads": 4,
    "fusion_layers": 2,
    "epochs": 20,
    "batch_size": 16,
    "lr": 3e-4,  # from random weights, post-norm layers lose the image at higher ones
    "lr_head": 1.0,
    "lr_fusion": 1.0,
    "lr_feedback": 1.0,
    "dropout": 0.0,
    "text_dropout": 0.0,
    "rand_augment": False,
}
"""Ours: a text encoder of two layers and 64 tokens an image, from random weights, on a CPU in minutes."""

NOTES = {
    "vqa": "val is among what is trained on; --train-split trainable --eval-splits rest_val keeps them apart",
    "retrieval-flickr30k": "the program chooses its checkpoint on test; --train-split karpathy-train --eval-splits "
    "karpathy-val is the clean choice",
    "retrieval-coco": "the program chooses its checkpoint on test; --eval-splits karpathy-val is the clean choice",
}


def _published(name: str, top_down: bool) -> NamedRecipe:
    init = "absvit-base-vl" if top_down else "vit-base"
    recipe = VisionLanguageRecipe(top_down=top_down, init=init, **TASKS[name])
    documented = name in ("vqa", "retrieval-flickr30k")
    return NamedRecipe(recipe, README if documented else CONFIG, note=NOTES.get(name, ""))


def _tiny(name: str) -> NamedRecipe:
    values = TASKS[name] | TINY | ({"false_texts": 3} if name.startswith("retrieval") else {})
    return NamedRecipe(VisionLanguageRecipe(**values), "ours", note="random weights, for a CPU")


RECIPES: dict[str, NamedRecipe] = {
    **{name: _published(name, True) for name in TASKS},
    **{f"{name}-vit": _published(name, False) for name in TASKS},
    "tiny-vqa": _tiny("vqa"),
    "tiny-snli-ve": _tiny("snli-ve"),
    "tiny-nlvr2": _tiny("nlvr2"),
    "tiny-retrieval": _tiny("retrieval-flickr30k"),
}
