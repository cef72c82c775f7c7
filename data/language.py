"""Images with texts as samples: tokens, soft answers, second images, and the negatives of retrieval."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from attnbias.data.datasets import ImageDataset, Sample, SampleKey, begin_batch, seeded, stack
from attnbias.data.errors import DataError
from attnbias.data.images import read_image
from attnbias.data.index import Index, Record, Text
from attnbias.data.sets.words import FOLDER as WORDS
from attnbias.data.transforms.basic import Transform

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Captions(NamedTuple):
    """All texts of a retrieval split, image by image."""

    text_ids: Tensor
    """(M, L) int64."""
    text_mask: Tensor
    """(M, L) int64: 1 for words, 0 for padding."""
    images: Tensor
    """(M,) int64: the sample (image) that each text belongs to."""


class LanguageDataset(ImageDataset):
    """The samples of a vision-language split, in the order of its index: a question, a statement or a caption each.

    A sample is {"image": (3, S, S), "text_ids": (L,) int64, "text_mask": (L,) int64, "target", "index"} and, for nlvr2,
    "image2": (3, S, S). The target is (answers,) float32 soft scores for vqa, () int64 for snli-ve and nlvr2, and 0 for
    retrieval. What is random follows from (seed, epoch, index) alone, negatives included. Decoding is always exact.

    Retrieval: a caption that an image has twice counts once. Training samples are pairs, and may come with
    "false_image": (3, S, S) of another image, and "false_text_ids", "false_text_mask": (false_texts, L) of other
    images. (The program draws over all pairs, so that its negatives may be true captions.) With `images_once` there
    is one sample an image, with its first caption; `captions()` gives all texts.

    Args:
        index: a split of task vqa, snli-ve, nlvr2 or retrieval.
        transform: PIL image (RGB) -> tensor (3, H, W); where sizes differ, a batch is padded with zeros.
        tokenizer: see `load_tokenizer`.
        max_length: L; longer texts are cut, shorter ones padded.
        false_image, false_texts: negatives beside each retrieval sample.
        images_once: retrieval in evaluation.
    """

    def __init__(
        self,
        index: Index,
        transform: Transform,
        *,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        false_image: bool = False,
        false_texts: int = 0,
        images_once: bool = False,
        seed: int = 0,
        on_bad_image: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__(index, transform, seed=seed, on_bad_image=on_bad_image)
        self.tokenizer, self.max_length = tokenizer, max_length
        self.false_image, self.false_texts = false_image, false_texts
        if without := [record.path for record in index.records if record.text is None]:
            raise DataError(
                f"{index.dataset}/{index.split} holds no texts ({without[0]}); it is not a set for {index.task}"
            )
        self.pairs: Sequence[Record] = index.records
        """Every (image, text) pair that counts; those of an image stand together."""
        if index.task == "retrieval":
            self.pairs = _once(index.records)
            self._first, self._owner = _images(self.pairs)
            self._keep([self.pairs[position] for position in self._first] if images_once else self.pairs)
            self.targets = np.zeros(len(self.records), dtype=np.int64)
            if (false_image or false_texts) and len(self._first) < 2:
                raise DataError(f"{index.dataset}/{index.split} has one image only: there is no other to draw from")

    def __getitem__(self, key: SampleKey | int) -> Sample:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        sample = super().__getitem__(SampleKey(index, epoch))
        if "error" in sample:
            return sample
        text = _text(self.records[index])
        ids, mask = self.encode([self.sentence(self.records[index])])
        sample["text_ids"], sample["text_mask"] = ids[0], mask[0]
        try:
            with seeded(self.seed, epoch, index, 1):  # the first image has drawn from (seed, epoch, index)
                if text.second_path is not None:
                    sample["image2"] = self.transform(self._read(text.second_path))
                if self.false_image:
                    sample["false_image"] = self.transform(self._read(self.pairs[self._others(index, 1)[0]].path))
                if self.false_texts:
                    others = [
                        _text(self.pairs[position]).sentence for position in self._others(index, self.false_texts)
                    ]
                    sample["false_text_ids"], sample["false_text_mask"] = self.encode(others)
        except DataError as error:
            if self.on_bad_image == "error":
                raise
            return {"index": index, "error": str(error)}
        return sample

    def target(self, index: int) -> Tensor:
        """Soft scores of all answers (answers,) float32 for vqa, else the class () int64."""
        if self.index.task != "vqa":
            return super().target(index)
        target = torch.zeros(len(self.index.classes))
        for answer, score in _text(self.records[index]).answers:
            target[answer] = score
        return target

    def sentence(self, record: Record) -> str:
        """What of a text is encoded: the program strips hypotheses, and only these."""
        text = _text(record)
        return text.sentence.strip() if self.index.task == "snli-ve" else text.sentence

    def encode(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask of texts, both (N, L) int64."""
        return encode(self.tokenizer, sentences, self.max_length)

    def captions(self) -> Captions:
        """Every text of a retrieval split, and the sample that it belongs to (with `images_once`)."""
        return Captions(*self.encode([_text(pair).sentence for pair in self.pairs]), torch.from_numpy(self._owner))

    def collate(self, samples: Sequence[Sample] | Sample) -> Sample:
        """Stack samples; images of different sizes are padded with zeros below and at the right."""
        assert not isinstance(samples, dict)
        good, batch = begin_batch(samples)
        names = [name for name in good[0] if name != "index"] if good else []
        return batch | {name: self._stacked([sample[name] for sample in good]) for name in names}

    def _stacked(self, tensors: Sequence[Tensor]) -> Tensor:
        """Stack tensors; images (3, H, W) to the height and the width of the largest, with zeros once normalised."""
        if any(tensor.shape != tensors[0].shape for tensor in tensors):
            height, width = (max(tensor.shape[side] for tensor in tensors) for side in (1, 2))
            if self.normalization is not None and tensors[0].dtype == torch.uint8:
                tensors = [self.normalization.normalize(tensor) for tensor in tensors]
            tensors = [pad(tensor, (0, width - tensor.shape[2], 0, height - tensor.shape[1])) for tensor in tensors]
        return stack(tensors)

    def _read(self, path: str) -> Image.Image:
        known = self.in_memory.get(path)
        return read_image(self.index.root / path, self.index.orientation) if known is None else known

    def _others(self, index: int, count: int) -> list[int]:
        """Pairs of other images than a sample's, drawn evenly and with replacement."""
        image = self._owner[index]
        start = int(self._first[image])
        end = int(self._first[image + 1]) if image + 1 < len(self._first) else len(self.pairs)
        drawn = torch.randint(len(self.pairs) - (end - start), (count,)).tolist()
        return [position if position < start else position + end - start for position in drawn]


def load_tokenizer(name: str, dataset_dir: Path | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer from disk: "words", a folder with a Hugging Face tokenizer, or a name in that hub's local cache.

    Args:
        name: "words" is the tokenizer that `prepare-data` made of the training split's words.
        dataset_dir: folder of the prepared set (`Index.dataset_dir`), where there is one.

    Raises:
        DataError: transformers is not installed, or there is no such tokenizer.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # loaders fork their workers
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise DataError("texts need transformers; run: pip install 'attnbias[vision-language]'") from None
    if name == "words":
        if dataset_dir is None or not (dataset_dir / WORDS / "tokenizer.json").is_file():
            where = f"in {dataset_dir}" if dataset_dir else "without a prepared set"
            raise DataError(f"there is no tokenizer of words {where}; run: attnbias prepare-data of the set again")
        name = str(dataset_dir / WORDS)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except OSError:
        raise DataError(
            f"no tokenizer '{name}' on this machine; give a folder with tokenizer.json, or run: hf download {name}"
        ) from None
    except Exception as error:  # a damaged file makes the tokenizers' parser raise nearly any type
        first, *_ = [*str(error).splitlines(), ""]
        raise DataError(f"the tokenizer '{name}' is damaged ({first}); prepare the set, or fetch it, again") from None
    if tokenizer.pad_token is None:
        raise DataError(f"the tokenizer '{name}' has no token to pad with; prepare the set, or fetch it, again")
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask (1 for words, 0 for padding) of texts, both (N, max_length) int64; longer ones are cut."""
    encoded = tokenizer(
        list(sentences), padding="max_length", truncation=True, max_length=max_length, return_tensors="pt"
    )
    return encoded.data["input_ids"], encoded.data["attention_mask"]


def _text(record: Record) -> Text:
    assert record.text is not None  # checked when the split was opened
    return record.text


def _once(records: Sequence[Record]) -> list[Record]:
    """The pairs image by image, in the order of the index, a caption that an image has twice only once."""
    pairs: dict[tuple[str, str], Record] = {}
    for record in records:
        pairs.setdefault((record.path, _text(record).sentence), record)
    position = {path: number for number, path in enumerate(dict.fromkeys(record.path for record in records))}
    return sorted(pairs.values(), key=lambda record: position[record.path])


def _images(pairs: Sequence[Record]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first pair of each image (P,), and the image of each pair (M,)."""
    paths = [pair.path for pair in pairs]
    begins = np.array([k == 0 or paths[k] != paths[k - 1] for k in range(len(paths))])
    return np.flatnonzero(begins), begins.cumsum() - 1
