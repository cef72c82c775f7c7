"""A word-level tokenizer made of a set's own texts, in the files that Hugging Face tokenizers are read from.

It stands in a prepared set's folder and serves models that are trained from scratch on small sets; pretrained text
encoders need the tokenizer that they were trained with.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable

FOLDER = "tokenizer"
"""Where it stands in a prepared set's folder."""

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
"""The special words, by their ids from 0: RoBERTa's, whose </s> = 2 and <pad> = 1 its position ids and AbSViT's prompt
count on."""

WORD = re.compile(r"\w+|[^\w\s]+")
"""The pieces that the pre-tokenizer `Whitespace` makes of a text."""


def word_tokenizer(texts: Iterable[str]) -> dict[str, str]:
    """Make a tokenizer of all words in the texts, in lower case, the most frequent first: {file: its content}.

    A sentence becomes <s> its words </s>; a word that is not among them is <unk>.
    """
    counts = Counter(word for text in texts for word in WORD.findall(text.lower()))
    words = [*SPECIAL.values(), *sorted(counts, key=lambda word: (-counts[word], word))]
    vocabulary = {word: number for number, word in enumerate(words)}
    begin, end = SPECIAL["bos_token"], SPECIAL["eos_token"]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocabulary[word], "content": word, "special": True, "normalized": False}
            | {"single_word": False, "lstrip": False, "rstrip": False}
            for word in SPECIAL.values()
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special(begin), {"Sequence": {"id": "A", "type_id": 0}}, _special(end)],
            "pair": [
                *(_special(begin), {"Sequence": {"id": "A", "type_id": 0}}, _special(end)),
                *({"Sequence": {"id": "B", "type_id": 0}}, _special(end)),
            ],
            "special_tokens": {
                word: {"id": word, "ids": [vocabulary[word]], "tokens": [word]} for word in (begin, end)
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": SPECIAL["unk_token"]},
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **SPECIAL}
    return {
        f"{FOLDER}/tokenizer.json": json.dumps(tokenizer, indent=1) + "\n",
        f"{FOLDER}/tokenizer_config.json": json.dumps(settings, indent=1) + "\n",
    }


def _special(word: str) -> dict[str, dict[str, str | int]]:
    return {"SpecialToken": {"id": word, "type_id": 0}}
