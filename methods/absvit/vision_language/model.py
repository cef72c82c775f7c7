"""Image and text together: AbSViT steered by the text, RoBERTa, METER's fusion, and a head for each task.

The vision-language part of Shi, Darrell, Wang (CVPR 2023), which stands on METER (Dou et al., CVPR 2022). The text says
what to look for: its prompt steers the second pass over the image. Then the two streams look at each other, and the
first tokens of both answer. Module names are those of the published weights.

Shapes: B samples, L text positions, T image tokens (the class token first), E text channels, C image channels, D fusion
channels, P patches, N texts of an image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attnbias.methods.absvit.vision_language.fusion import FusionLayer, Pooler
from attnbias.methods.absvit.vision_language.recipe import TEXT_ENCODERS, TextTask, VisionLanguageRecipe
from attnbias.methods.absvit.vision_language.text import END, build_text
from attnbias.methods.absvit.vision_language.vision import TextSteeredViT, build_vision
from attnbias.methods.engine.types import Batch

TEXT, IMAGE, SECOND_IMAGE = 0, 1, 2
"""Rows of the token types' embedding."""
CLASSIFIERS: dict[TextTask, str] = {"vqa": "vqa", "snli-ve": "snli", "nlvr2": "nlvr2"}
"""Tasks with classes -> what the published weights call their classifier."""


class Text(NamedTuple):
    """Texts, read."""

    states: Tensor
    """(B, L, E), the text encoder's last."""
    mask: Tensor
    """(B, 1, 1, L), True at words, False at padding."""
    prompt: Tensor
    """(B, E): what steers the image's second pass."""

    def pick(self, positions: Tensor) -> Text:
        """Some of the texts, in another order, or several times."""
        return Text(*(part[positions] for part in self))


class Pair(NamedTuple):
    """An image and a text after the fusion."""

    text: Tensor
    """(B, L, D)."""
    image: Tensor
    """(B, T, D)."""
    joint: Tensor
    """(B, 2 D): both streams' first tokens, pooled."""


class Surveyed(NamedTuple):
    """Images, seen once."""

    tokens: Tensor
    """(B, T, C) of the only pass, or of the first one."""
    patches: Tensor | None = None
    """(B, P, C), embedded, where a second pass follows."""


class Answers(NamedTuple):
    """What the model says of a batch."""

    logits: Tensor
    """(B, classes); for retrieval (B, N), how well each text fits the image."""
    errors: Tensor | None = None
    """(blocks,) reconstruction errors, where asked for (see `AbSViT.reconstruction_errors`)."""
    matching: Tensor | None = None
    """(B, 2): no match, match; of the retrieval task in training."""


class MatchHead(nn.Module):
    """Says whether text and image belong together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * width, 2)


class VisionLanguageModel(nn.Module):
    """METER with an image encoder that the text steers.

    Args:
        task: decides the head.
        vision: a TextSteeredViT, or a plain ViT.
        text: RoBERTa without its pooler.
        width, heads, layers, mlp, dropout: of the fusion; mlp * width are the hidden channels of its layers.
        answers: classes of the head (not for retrieval).
        prompt_pool: see VisionLanguageRecipe.
    """

    def __init__(
        self,
        task: TextTask,
        vision: VisionTransformer,
        text: nn.Module,
        *,
        width: int,
        heads: int,
        layers: int,
        mlp: int,
        dropout: float,
        answers: int,
        prompt_pool: str,
    ) -> None:
        super().__init__()
        self.task, self.prompt_pool = task, prompt_pool
        text_width = text.get_parameter("embeddings.word_embeddings.weight").shape[1]
        self.cross_modal_text_transform = nn.Linear(text_width, width)
        self.cross_modal_image_transform = nn.Linear(vision.embed_dim, width)
        self.token_type_embeddings = nn.Embedding(3 if task == "nlvr2" else 2, width)
        self.vit_model, self.text_transformer = vision, text
        self.cross_modal_image_layers = nn.ModuleList(FusionLayer(width, heads, mlp, dropout) for _ in range(layers))
        self.cross_modal_text_layers = nn.ModuleList(FusionLayer(width, heads, mlp, dropout) for _ in range(layers))
        self.cross_modal_image_pooler = Pooler(width)
        self.cross_modal_text_pooler = Pooler(width)
        if task == "retrieval":
            # The program's two heads share memory: a text's fit is the logit of "match". Here its row is kept once.
            self.itm_score = MatchHead(width)
            self.rank_output = nn.Linear(2 * width, 1)
        else:
            pairs = 2 if task == "nlvr2" else 1
            self.classifier = f"{CLASSIFIERS[task]}_classifier"
            layers_of_head = nn.Linear(2 * pairs * width, 2 * width), nn.LayerNorm(2 * width), nn.GELU()
            self.add_module(self.classifier, nn.Sequential(*layers_of_head, nn.Linear(2 * width, answers)))
        for name, part in self.named_children():
            if name not in ("vit_model", "text_transformer"):
                part.apply(_initialise)

    def forward(self, batch: Batch, *, match: Tensor | None = None, reconstruct: bool = False) -> Answers:
        """Answer a batch (see data/language.py for its layout).

        Args:
            batch: the samples.
            match: (B,) for retrieval: 1 where the matching head sees the true image, 0 where the false one.
            reconstruct: also compare the decoders' guesses with the states of the second pass.
        """
        text = self.read(batch["text_ids"], batch["text_mask"])
        if self.task == "retrieval":
            return self._match(batch, text, match)
        if self.task == "nlvr2":
            return self._compare(batch, text)
        states: list[Tensor] | None = [] if reconstruct else None
        tokens = self.look(batch["image"], text.prompt, states)
        logits = self.get_submodule(self.classifier)(self.fuse(text, tokens).joint)
        return Answers(logits, None if states is None else self.steered.reconstruction_errors(states))

    @property
    def steered(self) -> TextSteeredViT:
        """The vision side where the text steers it."""
        assert isinstance(self.vit_model, TextSteeredViT)
        return self.vit_model

    # Parts -----------------------------------------------------------------------------------------------------------

    def read(self, ids: Tensor, mask: Tensor) -> Text:
        """Read texts: token ids (B, L), and a mask (B, L) that is 1 at words and 0 at padding."""
        seen = mask.bool()[:, None, None]
        # transformers reads the values of a mask (B, L), and waits for the GPU; one (B, 1, L, L) it takes as it is.
        to_each = seen.expand(-1, -1, mask.shape[1], -1)
        states = self.text_transformer(input_ids=ids, attention_mask=to_each).last_hidden_state  # (B, L, E)
        if self.prompt_pool == "all":
            prompt = states.mean(1)
        elif self.prompt_pool == "masked":
            prompt = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            first_end = (ids == END).int().argmax(1)
            prompt = states[torch.arange(ids.shape[0], device=ids.device), first_end]
        return Text(states, seen, prompt)

    def look(self, images: Tensor, prompt: Tensor, states: list[Tensor] | None = None) -> Tensor:
        """Return image tokens (B, T, C) of images (B, 3, H, W), steered by prompts (B, E) where the model is."""
        if isinstance(self.vit_model, TextSteeredViT):
            return self.vit_model.look(images, prompt, states)
        return self.vit_model.forward_features(images)

    def fuse(self, text: Text, tokens: Tensor, kinds: Tensor | None = None) -> Pair:
        """Let texts and image tokens (B, T, C) look at each other; `kinds` (B,) says which image of two each is."""
        types = self.token_type_embeddings.weight
        x = self.cross_modal_text_transform(text.states) + types[TEXT]  # (B, L, D)
        kind = types[IMAGE] if kinds is None else types[kinds][:, None]
        y = self.cross_modal_image_transform(tokens) + kind  # (B, T, D)
        for text_layer, image_layer in zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True):
            # Each side sees the other as it was before this layer.
            x, y = text_layer(x, y, text.mask, None), image_layer(y, x, None, text.mask)
        pooled = self.cross_modal_text_pooler(x), self.cross_modal_image_pooler(y)
        return Pair(x, y, torch.cat(pooled, dim=-1))

    # Tasks -----------------------------------------------------------------------------------------------------------

    def _compare(self, batch: Batch, text: Text) -> Answers:
        """NLVR2: both images, each with the statement, in one go."""
        count = batch["image"].shape[0]
        once = torch.arange(count, device=batch["image"].device)
        twice, images = text.pick(once.repeat(2)), torch.cat((batch["image"], batch["image2"]))
        kinds = torch.cat((torch.full_like(once, IMAGE), torch.full_like(once, SECOND_IMAGE)))
        joint = self.fuse(twice, self.look(images, twice.prompt), kinds).joint
        return Answers(self.get_submodule(self.classifier)(torch.cat((joint[:count], joint[count:]), dim=-1)))

    def _match(self, batch: Batch, text: Text, match: Tensor | None) -> Answers:
        """Retrieval in training: the true caption against false ones, and the caption with the true image or not."""
        images, false_ids, false_mask = batch["image"], batch["false_text_ids"], batch["false_text_mask"]
        count, wrong, length = false_ids.shape
        ids = torch.cat((batch["text_ids"][:, None], false_ids), dim=1).view(-1, length)
        mask = torch.cat((batch["text_mask"][:, None], false_mask), dim=1).view(-1, length)
        owners = torch.arange(count, device=ids.device).repeat_interleave(1 + wrong)
        logits = self.rank(self.survey(images), self.read(ids, mask), owners).view(count, 1 + wrong)
        if match is None:
            return Answers(logits)
        shown = torch.where(match.bool()[:, None, None, None], images, batch["false_image"])
        return Answers(logits, matching=self.match(self.fuse(text, self.look(shown, text.prompt)).joint))

    def match(self, joint: Tensor) -> Tensor:
        """Logits (B, 2) of no match and match; "match" is the ranking's, and learns from it alone."""
        fc, rank = self.itm_score.fc, self.rank_output
        weight = torch.cat((fc.weight[:1], rank.weight.detach()))
        return F.linear(joint, weight, torch.cat((fc.bias[:1], rank.bias.detach())))

    def survey(self, images: Tensor) -> Surveyed:
        """See what can be seen of images (B, 3, H, W) before a text is known."""
        if isinstance(self.vit_model, TextSteeredViT):
            patches = self.vit_model.patch_embed(images)
            return Surveyed(self.vit_model.encode(patches), patches)
        return Surveyed(self.vit_model.forward_features(images))

    def rank(self, surveyed: Surveyed, text: Text, images: Tensor) -> Tensor:
        """Say how well each text fits its image, whose position among the surveyed ones is in `images` (texts,)."""
        tokens = surveyed.tokens[images]
        if surveyed.patches is not None:
            tokens = self.steered.second_pass(surveyed.patches[images], tokens, text.prompt)
        return self.rank_output(self.fuse(text, tokens).joint)[:, 0]


def _initialise(module: nn.Module) -> None:
    """BERT's initial weights."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def build(recipe: VisionLanguageRecipe, num_classes: int) -> VisionLanguageModel:
    """Build the model that a recipe describes, with fresh weights."""
    sizes = TEXT_ENCODERS[recipe.text_encoder]
    return VisionLanguageModel(
        recipe.task,
        build_vision(
            recipe.architecture,
            recipe.image_size,
            top_down=recipe.top_down,
            text_width=sizes["hidden_size"],
            gain=recipe.feedback_gain,
        ),
        build_text(recipe.vocabulary, recipe.text_dropout, **sizes),
        width=recipe.fusion_width,
        heads=recipe.fusion_heads,
        layers=recipe.fusion_layers,
        mlp=recipe.fusion_mlp,
        dropout=recipe.dropout,
        answers=num_classes,
        prompt_pool=recipe.prompt_pool,
    )
