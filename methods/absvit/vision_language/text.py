"""The text encoder, RoBERTa of Hugging Face's transformers, and where its weights come from. Nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnbias.methods.engine.errors import UsageError
from attnbias.weights.errors import WeightsError

if TYPE_CHECKING:
    from torch import nn

END = 2
"""RoBERTa's </s>."""


def build_text(vocabulary: int, dropout: float, **sizes: int) -> nn.Module:
    """Build RoBERTa with fresh weights; `sizes` are RobertaConfig's.

    Raises:
        UsageError: transformers is not installed.
    """
    transformers = import_transformers()
    config = transformers.RobertaConfig(
        vocab_size=vocabulary,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="sdpa",
        **{"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5} | sizes,
    )
    return transformers.RobertaModel(config, add_pooling_layer=False)


def load_text(encoder: nn.Module, source: str) -> None:
    """Fill a text encoder from a folder of transformers, or from a model's name in the local cache.

    Raises:
        WeightsError: it is not there, or is of another size.
    """
    transformers = import_transformers()
    try:
        found = transformers.RobertaModel.from_pretrained(source, local_files_only=True, add_pooling_layer=False)
    except (OSError, ValueError):
        raise WeightsError(
            f"no text encoder '{source}' on this machine: it is neither a folder with config.json and weights nor in "
            f"the Hugging Face cache; fetch it with: hf download {source} (or start at random: --text-weights none)"
        ) from None
    own, given = encoder.state_dict(), found.state_dict()
    differing = [name for name in own if name not in given or given[name].shape != own[name].shape]
    if differing:
        raise WeightsError(
            f"text encoder '{source}' is of another size than --text-encoder and --vocabulary say: {differing[0]} "
            f"and {len(differing) - 1} more tensors differ"
        )
    encoder.load_state_dict({name: given[name] for name in own})


def import_transformers() -> Any:
    """Import transformers, or say how to install it."""
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "vision-language tasks need the package transformers; run: pip install 'attnbias[vision-language]'"
        ) from None
    return transformers
