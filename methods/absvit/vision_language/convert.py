"""Published weights, both ways: what the authors' program stores that nothing uses, and what names and shapes tell."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from attnbias.methods.absvit.convert import architecture_of
from attnbias.methods.absvit.convert import fit_resolution as fit_vision
from attnbias.methods.absvit.vision_language.model import CLASSIFIERS, VisionLanguageModel
from attnbias.methods.absvit.vision_language.recipe import TEXT_ENCODERS
from attnbias.methods.engine.types import Fields
from attnbias.weights.errors import WeightsError

VISION, TEXT = "vit_model.", "text_transformer."
POSITION_IDS = f"{TEXT}embeddings.position_ids"
IMAGENET_CLASSES = 1000


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop what the program stores and nothing uses: RoBERTa's position ids and pooler, ImageNet's head and prompt."""
    unused = (POSITION_IDS, f"{TEXT}pooler.", f"{VISION}head.")
    kept = {n: v for n, v in state.items() if not n.startswith(unused) and n != f"{VISION}prompt"}
    return _share_match(kept)


def publish(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give our weights every name that the program's strict loading asks for, in its order; what we do not have is
    zero."""

    def part(*start: str) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if name.startswith(start)}

    width, text_width = (state[f"{name}.weight"].shape[0] for name in (f"{VISION}norm", f"{TEXT}embeddings.LayerNorm"))
    head = {"weight": torch.zeros(IMAGENET_CLASSES, width), "bias": torch.zeros(IMAGENET_CLASSES)}
    pooler = {"weight": torch.zeros(text_width, text_width), "bias": torch.zeros(text_width)}
    positions = torch.arange(len(state[f"{TEXT}embeddings.position_embeddings.weight"]))[None]
    published = {
        **part("cross_modal_text_transform.", "cross_modal_image_transform.", "token_type_embeddings."),
        **part(VISION),
        **{f"{VISION}head.{name}": value for name, value in head.items()},
        POSITION_IDS: positions,
        **part(f"{TEXT}embeddings.word_"),
        **part(f"{TEXT}embeddings.position_"),
        **part(TEXT),
        **{f"{TEXT}pooler.dense.{name}": value for name, value in pooler.items()},
    }
    return _share_match(published | state)  # what was not named follows, in its own order


def _share_match(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The program's two heads of retrieval share memory: whichever was stored, "match" is the ranking's row."""
    if not {"rank_output.weight", "itm_score.fc.weight"} <= state.keys():
        return state
    shared = {
        f"itm_score.fc.{name}": torch.cat((state[f"itm_score.fc.{name}"][:1], state[f"rank_output.{name}"]))
        for name in ("weight", "bias")
    }
    return state | shared


def infer(state: dict[str, Tensor]) -> Fields:
    """Tell task, sizes and number of classes; {} where these are not our weights."""
    if not {f"{VISION}pos_embed", f"{TEXT}embeddings.word_embeddings.weight"} <= state.keys():
        return {}
    words = state[f"{TEXT}embeddings.word_embeddings.weight"]
    fields: Fields = {
        "top_down": f"{VISION}prompt_decoder.weight" in state,
        "vocabulary": len(words),
        "fusion_width": len(state["cross_modal_text_transform.weight"]),
        "fusion_layers": _count(state, "cross_modal_text_layers.", ".intermediate.dense.weight"),
        **_fusion_mlp(state),
    }
    if (architecture := architecture_of(state, VISION, pooled=False)) is not None:
        fields["architecture"] = architecture
    encoder = {
        "hidden_size": words.shape[1],
        "num_hidden_layers": _count(state, f"{TEXT}encoder.layer.", ".intermediate.dense.weight"),
    }
    for name, sizes in TEXT_ENCODERS.items():
        if encoder.items() <= sizes.items():
            fields["text_encoder"] = name
    for task, name in CLASSIFIERS.items():
        if (head := state.get(f"{name}_classifier.3.weight")) is not None:
            return {**fields, "task": task, "num_classes": len(head)}
    return {**fields, "task": "retrieval", "num_classes": 0} if "rank_output.weight" in state else {}


def _fusion_mlp(state: dict[str, Tensor]) -> Fields:
    hidden = state.get("cross_modal_text_layers.0.intermediate.dense.weight")
    return {} if hidden is None else {"fusion_mlp": max(1, len(hidden) // hidden.shape[1])}


def _count(state: dict[str, Tensor], start: str, end: str) -> int:
    return sum(name.startswith(start) and name.endswith(end) for name in state)


def fit_resolution(model: VisionLanguageModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resize the position embedding to the model's patch grid where the numbers of patches differ."""
    return fit_vision(model.vit_model, state, f"{VISION}pos_embed")


# Starts ---------------------------------------------------------------------------------------------------------------


def start(model: VisionLanguageModel, state: dict[str, Tensor], path: Path) -> list[str]:
    """Fill a fresh model from a file of the program: its vision pretraining, or a whole model of any task.

    As in the program, what the file does not have stays fresh (returned, by name), and what the model does not have is
    left out; the text encoder stays as it is where the file is of the vision side. Where NLVR2 starts from another
    task, the second image's type starts as the first one's.

    Raises:
        WeightsError: the file holds nothing of this model, or tensors of another shape.
    """
    if f"{VISION}pos_embed" not in state:
        state = {f"{VISION}{name}": value for name, value in state.items()}
    state = fit_resolution(model, convert(state))
    own = model.state_dict()
    types = "token_type_embeddings.weight"
    if types in state and len(state[types]) == len(own[types]) - 1:
        state = {**state, types: torch.cat((state[types], state[types][1:]))}
    found = {name: value for name, value in state.items() if name in own}
    if f"{VISION}pos_embed" not in found:
        raise WeightsError(f"{path} holds neither a ViT nor a whole vision-language model")
    misshapen = [name for name, value in found.items() if value.shape != own[name].shape]
    if misshapen:
        raise WeightsError(f"{path} does not fit the model: {', '.join(misshapen[:10])} have another shape")
    model.load_state_dict(found, strict=False)
    expected = own if any(name.startswith(TEXT) for name in found) else model.vit_model.state_dict(prefix=VISION)
    return [name for name in expected if name not in found]
