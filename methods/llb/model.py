"""LLB's model: a vision transformer that sees, and a branch that structures latent objects by their labels alone.

Kang, Bae, Kim: Label-Focused Inductive Bias over Latent Object Features in Visual Classification, ICLR 2024, OpenReview
cH3oufN8Pl (LLB).
Shapes: B images, P patches, S tokens (the network's prefix tokens, in the paper's one class token, before the patches),
D width, O objects, C classes. The visual branch is timm's stock VisionTransformer for all three families of the paper;
its names are never registered anew. `--backbone` puts any of timm's plain vision transformers in its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import dropwhile
from typing import Literal, NamedTuple

import torch
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from attnbias.data.index import Task
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.transformer_maps import ViT
from attnbias.methods.engine.vision_transformers import Step, build_vit, embedded, heads_of, steps
from attnbias.methods.engine.vit_stem import stem_options
from attnbias.methods.llb.recipe import LLBRecipe

HEADS = {"head", "head_dist"}
"""What a visual branch classifies with, by timm's names; DeiT's distilled networks have two."""


class BranchOutput(NamedTuple):
    """What training needs."""

    branch: Tensor
    """Logits of the label-focused branch, (B, C)."""
    shares: Tensor
    """Soft assignment of patches to objects, (B, P, O)."""
    visual: Tensor | None
    """Logits of the visual branch, (B, C), where its head trains too."""


class Predictions(NamedTuple):
    """What one pass in evaluation gives."""

    mixed: Tensor
    """Probabilities, (B, C) float32, as `visual` and `branch`."""
    visual: Tensor
    branch: Tensor
    usage: Tensor | None
    """Share of each image's patches that each object takes, (B, O); None with the legacy SWAG axis."""


class LLB(nn.Module):
    """A vision transformer and its label-focused branch; alpha weighs their predictions (step 4)."""

    def __init__(self, recipe: LLBRecipe, num_classes: int, task: Task = "singlelabel") -> None:
        super().__init__()
        self.backbone = build_backbone(recipe, num_classes)
        self.branch = LabelBranch(recipe, self.backbone, num_classes)
        self.grad_checkpointing = False
        self.task, self.alpha = task, recipe.alpha
        self.family = None if recipe.backbone else recipe.family
        self.tapped_block = recipe.target_layer or len(self.backbone.blocks) - 1
        self.frozen = recipe.freeze and not recipe.legacy_freeze
        self.trains_visual = recipe.visual_weight > 0
        initialise(self.branch, recipe)
        self._freeze(recipe)

    def forward(
        self, images: Tensor, output: Literal["logits", "predictions", "training"] = "logits"
    ) -> Tensor | Predictions | BranchOutput:
        """Classify images (B, 3, H, W).

        "logits": (B, C) whose softmax (single-label; sigmoid in multi-label work) is the mixture, that is its log (or
        log-odds). "predictions": probabilities of the mixture and both branches. "training": the branch's raw logits
        and what the loss needs; a frozen backbone runs without gradients and only to the tapped block.
        """
        keep_graph = not self.frozen or output != "training"
        with nullcontext() if keep_graph else torch.no_grad():
            tapped = self.tokens(images, self.tapped_block)  # (B, S, D)
        branch, shares = self.branch(tapped)
        if output == "training":
            return BranchOutput(branch, shares, self.finish(tapped) if self.trains_visual else None)
        visual, branch = self.finish(tapped).float(), branch.float()
        if output == "logits":
            return mixed_logits(visual, branch, self.alpha, self.task)
        seen, known = (v.sigmoid() if self.task == "multilabel" else v.softmax(dim=-1) for v in (visual, branch))
        usage = shares.mean(1) if self.branch.axis == 1 else None
        return Predictions(self.alpha * seen + (1 - self.alpha) * known, seen, known, usage)

    def tokens(self, images: Tensor, blocks: int) -> Tensor:
        """Tokens after the first `blocks` blocks of the backbone, prefix tokens first, not normalised, (B, S, D)."""
        start = embedded(self.backbone, self.backbone.patch_embed(images))
        return run_blocks(steps(self.backbone)[:blocks], start, self.grad_checkpointing)

    def finish(self, tapped: Tensor) -> Tensor:
        """Run the rest of the backbone: its own logits (B, C)."""
        tokens = run_blocks(steps(self.backbone)[self.tapped_block :], tapped, self.grad_checkpointing)
        return self.backbone.forward_head(self.backbone.norm(tokens))

    def _freeze(self, recipe: LLBRecipe) -> None:
        """Leave trainable what the loss reaches, by module: DDP would wait for gradients of blocks past the tap."""
        self.backbone.requires_grad_(not recipe.freeze)
        if recipe.legacy_freeze:
            self.backbone.patch_embed.requires_grad_(True)
        if self.trains_visual:
            for name in HEADS & dict(self.backbone.named_children()).keys():
                self.backbone.get_submodule(name).requires_grad_(True)
            return
        after_blocks = dropwhile(lambda child: child is not self.backbone.blocks, self.backbone.children())
        for module in (*self.backbone.blocks[self.tapped_block :], *list(after_blocks)[1:]):
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> LLB:
        """A frozen backbone stays as in evaluation: those that embed patches by convolutions hold BatchNorm."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep no activations inside the blocks of the backbone and the branch, as timm's models do when asked."""
        self.grad_checkpointing = self.branch.grad_checkpointing = enable


def mixed_logits(visual: Tensor, branch: Tensor, alpha: float, task: Task) -> Tensor:
    """Logits (B, C) of the mixture: its log in single-label work, its log-odds in multi-label work."""
    weights = [math.log(weight) if weight else -math.inf for weight in (alpha, 1 - alpha)]

    def mix(one: Tensor, other: Tensor) -> Tensor:
        return torch.logaddexp(one + weights[0], other + weights[1])

    if task == "multilabel":
        return mix(F.logsigmoid(visual), F.logsigmoid(branch)) - mix(F.logsigmoid(-visual), F.logsigmoid(-branch))
    return mix(visual.log_softmax(dim=-1), branch.log_softmax(dim=-1))


# The label-focused branch ---------------------------------------------------------------------------------------------


class LabelBranch(nn.Module):
    """The label-focused branch: a block and the quantiser, blocks over the objects, and a classifier (steps 1 to 3).

    No position embedding is added: past the quantiser an image is a bag of objects. Along `axis` the first entries are
    dropped for the token: the backbone's prefix tokens along 1; 0 is the SWAG program's mistake, along the batch.
    """

    def __init__(self, recipe: LLBRecipe, backbone: ViT, num_classes: int) -> None:
        super().__init__()
        dim, heads = backbone.embed_dim, heads_of(backbone)
        self.blocks = nn.ModuleList(
            Block(dim, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(recipe.num_nv_layers)
        )
        self.objects = LatentObjects(dim, recipe.objects, recipe.temperature)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm = LayerNorm(dim)  # epsilon 1e-6, as everywhere in timm's vision transformers
        self.head = nn.Linear(dim, num_classes)
        self.axis = 0 if recipe.legacy_swag_axis else 1
        self.dropped = 1 if recipe.legacy_swag_axis else backbone.num_prefix_tokens
        self.grad_checkpointing = False

    def forward(self, tapped: Tensor) -> tuple[Tensor, Tensor]:
        """Classify tapped backbone tokens (B, S, D): logits (B, C) and the assignment (B, P, O)."""
        shares, tokens = self.assign(tapped)
        tokens = self.norm(self.structure(self.embed(tokens)))  # (B, 1 + P, D)
        return self.head(tokens[:, 0]), shares

    def assign(self, tapped: Tensor) -> Assignment:
        """Assign the patches of tapped backbone tokens (B, S, D) to objects."""
        features = run_blocks(self.blocks[:1], tapped, self.grad_checkpointing)
        # (B, P, D); with the legacy axis (B-1, S, D)
        return self.objects(features.narrow(self.axis, self.dropped, features.shape[self.axis] - self.dropped))

    def embed(self, tokens: Tensor) -> Tensor:
        """Put the branch's own token in the place of what `assign` dropped: (B, 1 + P, D)."""
        shape = list(tokens.shape)
        shape[self.axis] = 1
        return torch.cat([self.token.to(tokens.dtype).expand(shape), tokens], dim=self.axis)

    def structure(self, tokens: Tensor, blocks: int | None = None) -> Tensor:
        """Run the blocks after the quantiser, or the first `blocks` of them, over (B, 1 + P, D)."""
        return run_blocks(self.blocks[1:][:blocks], tokens, self.grad_checkpointing)


class Assignment(NamedTuple):
    """What the quantiser makes of the patches."""

    shares: Tensor
    """Soft assignment of each patch to the objects, (B, P, O) float32; its rows sum to one."""
    tokens: Tensor
    """Patches rebuilt from object embeddings alone, (B, P, D)."""


class LatentObjects(nn.Module):
    """Find objects in patch features, and forget the features: only which objects they are goes on (steps 1 and 2).

    A = softmax((U W^T + b) / T) over objects, Z = A E with free embeddings E. No hard choice, no codebook distance:
    gradients flow through A.
    """

    def __init__(self, dim: int, objects: int, temperature: float) -> None:
        super().__init__()
        self.extractor = nn.Linear(dim, objects)
        self.embeddings = nn.Parameter(torch.empty(objects, dim))
        self.temperature = temperature

    def forward(self, patches: Tensor) -> Assignment:
        """Quantise patch features (B, P, D)."""
        # float32 also under autocast: the usage entropy takes logarithms of means of these.
        shares = (self.extractor(patches).float() / self.temperature).softmax(dim=-1)  # (B, P, O)
        return Assignment(shares, shares.to(patches.dtype) @ self.embeddings.to(patches.dtype))


def run_blocks(blocks: Iterable[Step], tokens: Tensor, checkpointing: bool) -> Tensor:
    """Run blocks over tokens (B, S, D). With `checkpointing` their activations are made anew in the backward pass."""
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(block, tokens, use_reentrant=False)
        else:
            tokens = block(tokens)
    return tokens


# From a recipe --------------------------------------------------------------------------------------------------------


def build_backbone(recipe: LLBRecipe, num_classes: int) -> ViT:
    """The visual branch: the paper's ViT of a family and size, or timm's of a name.

    Raises:
        UsageError: there is no such network, or it does not suit the recipe.
    """
    if recipe.backbone is not None:
        network = build_vit(recipe.backbone, recipe.image_size, num_classes)
        if (recipe.target_layer or 0) > len(network.blocks):
            raise UsageError(
                f"target_layer is {recipe.target_layer}, but {recipe.backbone} has {len(network.blocks)} blocks"
            )
        return network
    vit = recipe.vit
    return VisionTransformer(
        img_size=recipe.image_size,
        **stem_options(recipe.stem, vit.patch, vit.dim),
        num_classes=num_classes,
        # MAE's fine-tuned models average the patches; norm becomes fc_norm.
        global_pool="avg" if recipe.family == "mae" else "token",
        embed_dim=vit.dim,
        depth=vit.depth,
        num_heads=vit.heads,
    )


def initialise(branch: LabelBranch, recipe: LLBRecipe) -> None:
    """Give the branch fresh weights, as the program does: never the backbone's.

    Linear layers truncated normal (std 0.02), biases 0; embeddings Xavier normal; token 0. The SWAG family keeps its
    own rules: Xavier attention inputs and MLPs, torch's defaults for the extractor and projections, a zero head.
    """
    nn.init.xavier_normal_(branch.objects.embeddings)
    if recipe.backbone is not None or recipe.family != "swag":
        for module in branch.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        return
    for name, module in branch.blocks.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if not name.endswith("attn.proj"):
            nn.init.xavier_uniform_(module.weight)
        if ".mlp." in name:
            nn.init.normal_(module.bias, std=1e-6)
        else:
            nn.init.zeros_(module.bias)
    nn.init.zeros_(branch.head.weight)
    nn.init.zeros_(branch.head.bias)
