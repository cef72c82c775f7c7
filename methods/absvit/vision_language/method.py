"""AbSViT asked about images in words: questions, entailment, statements about two images, retrieval.

A second method of the same paper; `attnbias train absvit --task vqa` leads here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor, arange, nn

from attnbias.data.datasets import ImageDataset
from attnbias.data.images import Decode
from attnbias.data.index import Index, Task
from attnbias.data.language import LanguageDataset, encode, load_tokenizer
from attnbias.data.prepared import index_path
from attnbias.data.transforms.basic import Transform
from attnbias.data.transforms.language import RANDAUGMENT, language_transform
from attnbias.methods.absvit.convert import say_fresh
from attnbias.methods.absvit.vision_language import VisionLanguageDescription
from attnbias.methods.absvit.vision_language.attention import (
    patch_tokens,
    steered_maps,
    steered_vision,
    text_maps,
    text_priors,
)
from attnbias.methods.absvit.vision_language.convert import convert, fit_resolution, infer, start
from attnbias.methods.absvit.vision_language.groups import frozen, grouped
from attnbias.methods.absvit.vision_language.loss import drawn_matches, task_loss
from attnbias.methods.absvit.vision_language.metrics import accuracy, recall
from attnbias.methods.absvit.vision_language.model import VisionLanguageModel, build
from attnbias.methods.absvit.vision_language.recipe import VisionLanguageRecipe, schedule
from attnbias.methods.absvit.vision_language.retrieval import rank_captions, score_pairs
from attnbias.methods.absvit.vision_language.text import load_text
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.types import Batch, Layer, Metrics, ParamGroups

BETAS = 0.9, 0.98
"""The program's AdamW."""


class VisionLanguageMethod(VisionLanguageDescription, Method[VisionLanguageRecipe, VisionLanguageModel]):
    """METER's fusion on an AbSViT whose second pass the text steers."""

    def build_model(self, recipe: VisionLanguageRecipe, num_classes: int, task: Task) -> VisionLanguageModel:
        """Build the model of the recipe's task; `model(batch)` gives `Answers`."""
        if task != recipe.task:
            raise UsageError(f"the recipe is of task {recipe.task}, dataset '{recipe.dataset}' of task {task}")
        model = build(recipe, num_classes)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not frozen(name, recipe))
        return model

    def loss(self, model: nn.Module, batch: Batch, recipe: VisionLanguageRecipe, task: Task) -> dict[str, Tensor]:
        """The task's loss; retrieval adds the matching head's, VQA the reconstruction error."""
        target = batch["target"]
        match = drawn_matches(len(target), target.device) if recipe.task == "retrieval" else None
        weight = recipe.reconstruction_weight if recipe.top_down else 0.0
        answers = model(batch, match=match, reconstruct=weight > 0)
        return task_loss(answers, target, recipe.task, weight, match)

    def param_groups(self, model: VisionLanguageModel, recipe: VisionLanguageRecipe) -> ParamGroups:
        """The program's groups: the rest, head, fusion and feedback, each with and without decay."""
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return [
            {
                "params": [parameters[name] for name in group.names],
                "lr": group.lr,
                "weight_decay": group.weight_decay,
                **({} if recipe.optimizer == "sgd" else {"betas": BETAS}),
            }
            for group in grouped(parameters, recipe)
        ]

    schedule = staticmethod(schedule)

    def transform(self, recipe: VisionLanguageRecipe, train: bool) -> Transform:
        """METER's pipelines; only RandAugment draws."""
        name = "vit" if recipe.normalize == "half" else recipe.normalize
        return language_transform(name + (RANDAUGMENT if train and recipe.rand_augment else ""), recipe.image_size)

    def open_dataset(
        self,
        recipe: VisionLanguageRecipe,
        index: Index,
        *,
        train: bool = False,
        on_bad_image: Literal["error", "skip"] = "error",
        decode: Decode = "exact",
    ) -> ImageDataset:
        """Images with their texts; retrieval trains with false ones, and is measured image by image.

        Raises:
            UsageError: the set is of another task, its tokenizer knows more words than the text encoder, or fast
                decoding.
        """
        if index.task != recipe.task:
            raise UsageError(f"dataset '{index.dataset}' is of task {index.task}, the recipe of {recipe.task}")
        if decode == "fast":
            raise UsageError("--decode fast: images with texts are decoded exactly; use --decode exact")
        if train and recipe.train_split is not None and index.dataset_dir is not None:
            index = Index.read(index_path(index.dataset_dir, recipe.train_split))
        tokenizer = load_tokenizer(recipe.tokenizer, index.dataset_dir)
        if len(tokenizer) > recipe.vocabulary:
            raise UsageError(
                f"the tokenizer '{recipe.tokenizer}' has {len(tokenizer)} words, the text encoder {recipe.vocabulary}; "
                f"add --vocabulary {len(tokenizer)}"
            )
        negatives = train and recipe.task == "retrieval"
        return LanguageDataset(
            index,
            self.transform(recipe, train),
            tokenizer=tokenizer,
            max_length=recipe.max_text_length,
            false_image=negatives,
            false_texts=recipe.false_texts if negatives else 0,
            images_once=recipe.task == "retrieval" and not train,
            seed=recipe.seed,
            on_bad_image=on_bad_image,
        )

    def answer(
        self, model: VisionLanguageModel, batch: Batch, dataset: ImageDataset, recipe: VisionLanguageRecipe
    ) -> dict[str, Tensor]:
        """Each class's probability; of vqa the answer that was chosen and the score that it earns; of retrieval an
        image's fit with every caption."""
        if recipe.task == "retrieval":
            assert isinstance(dataset, LanguageDataset)
            return rank_captions(model, batch, dataset.captions())
        logits = model(batch).logits.float()
        if recipe.task != "vqa":
            return {"scores": logits.softmax(1)}
        chosen = logits.argmax(1)
        # A row of 3129 soft scores a question would be gigabytes; what the answer earns is all that counts.
        return {"answer": chosen, "targets": batch["target"].gather(1, chosen[:, None])[:, 0]}

    def measure_all(
        self, recipe: VisionLanguageRecipe, targets: np.ndarray, scores: Mapping[str, np.ndarray], task: Task
    ) -> Metrics:
        """VQA score, accuracy, or recall among the first 1, 5 and 10 both ways, in per cent."""
        if task == "vqa":
            return {"vqa_score": 100 * float(targets.mean())}
        if task != "retrieval":
            return {"accuracy": 100 * accuracy(scores["scores"], targets)}
        measures = {name: 100 * value for name, value in recall(scores["fit"], targets.astype(bool)).items()}
        return {**measures, "r1_sum": measures["ir_r1"] + measures["tr_r1"]}

    def attention(
        self,
        model: VisionLanguageModel,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Not without a text: `attention.text_maps` asks for one."""
        raise UsageError(f"method '{self.name}' looks where a text says; classes alone say nothing")

    def read_texts(self, recipe: VisionLanguageRecipe, texts: Sequence[str], dataset_dir: Path | None) -> Batch:
        """Token ids and masks (B, L)."""
        if recipe.task == "nlvr2":
            raise UsageError("a statement of nlvr2 is about two images; visualize shows one")
        ids, mask = encode(load_tokenizer(recipe.tokenizer, dataset_dir), texts, recipe.max_text_length)
        return {"text_ids": ids, "text_mask": mask}

    def text_scores(self, model: VisionLanguageModel, batch: Batch, task: Task) -> Tensor | None:
        """How well each answer fits (vqa: on its own, else beside the others); a caption has no answers."""
        if task == "retrieval":
            return None
        logits: Tensor = model(batch).logits.float()
        return logits.sigmoid() if task == "vqa" else logits.softmax(-1)

    def text_fit(self, model: VisionLanguageModel, images: Tensor, texts: Batch) -> Tensor:
        """The ranking head's scores, as retrieval is measured."""
        return score_pairs(model, images, texts["text_ids"], texts["text_mask"])

    def pair_fit(self, model: VisionLanguageModel, batch: Batch) -> Tensor:
        """The ranking head's score of each image with its own text."""
        images, text = batch["image"], model.read(batch["text_ids"], batch["text_mask"])
        return model.rank(model.survey(images), text, arange(images.shape[0], device=images.device)).float()

    def text_attention(self, model: VisionLanguageModel, batch: Batch, *, kind: str, head: int | None = None) -> Tensor:
        """The program's maps (`attention.text_maps`)."""
        return text_maps(model, batch["image"], batch["text_ids"], batch["text_mask"], kind, head)

    def text_priors(self, model: VisionLanguageModel, batch: Batch) -> Tensor:
        """What the text encoder and a linear layer make of them."""
        return text_priors(model, batch["text_ids"], batch["text_mask"])

    steered = staticmethod(steered_maps)
    tokens = staticmethod(patch_tokens)

    def check_steered(self, model: VisionLanguageModel) -> None:
        """Only over AbSViT is there a second pass."""
        steered_vision(model)

    def default_gain(self, model: VisionLanguageModel) -> float:
        """The strength that it was trained with."""
        return steered_vision(model).gain

    def explained_layer(self, model: VisionLanguageModel) -> Layer:
        """The norm before the last block's attention: behind it, no patch token reaches the class token."""
        vision = model.vit_model
        return Layer(vision.get_submodule(f"blocks.{len(vision.blocks) - 1}.norm1"))

    convert = staticmethod(convert)
    infer = staticmethod(infer)

    fit_resolution = staticmethod(fit_resolution)

    def load_parts(self, model: VisionLanguageModel, recipe: VisionLanguageRecipe) -> None:
        """Start the text encoder from the recipe's `text_weights`."""
        if recipe.text_weights is not None:
            load_text(model.get_submodule("text_transformer"), recipe.text_weights)
            logging.getLogger(__name__).warning("text encoder: %s", recipe.text_weights)

    def load_backbone(
        self, model: VisionLanguageModel, recipe: VisionLanguageRecipe, state: dict[str, Tensor], path: Path
    ) -> None:
        """Start from the program's vision pretraining, or from its model of another task; fresh tensors are named."""
        say_fresh(start(model, state, path))


METHOD = VisionLanguageMethod()
