"""What each throughput feature is worth here: the thing with it against the same without, ratio below one = faster.

The README's table says which are on by default, which are options, and which were left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from harness import Figure, compare, ratio_of
from PIL import Image
from speed_engine import demo_set, started
from timm.layers.attention import Attention
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from attnbias.data.datasets import ImageDataset
from attnbias.data.in_memory import InMemoryImages
from attnbias.data.index import Index, Record
from attnbias.data.transforms.basic import ToNormalizedTensor, normalization
from attnbias.methods.engine.registry import get_method


def features(rounds: int) -> Iterator[Figure]:
    """Every feature that can be tried without a GPU."""
    yield from optimisers(rounds)
    yield from averaging(rounds)
    yield from layouts(rounds)
    yield from attention(rounds)
    yield from compiling(rounds)
    yield from normalising(rounds)
    yield from in_memory(rounds)
    yield from prefetching(rounds)


def optimisers(rounds: int) -> Iterator[Figure]:
    """The update of a ViT-S by one fused kernel against torch's default."""
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": partial(torch.optim.SGD, momentum=0.9)}
    for name, kind in kinds.items():
        steps = []
        for fused in (True, None):
            parameters = list(timm.create_model("vit_small_patch16_224").parameters())
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 1e-3)
            steps.append(kind(parameters, lr=1e-4, weight_decay=0.05, fused=fused).step)
        yield compare(f"fused {name} / default, update of ViT-S", *steps, rounds)


def averaging(rounds: int) -> Iterator[Figure]:
    """One update of the moving average."""
    model = timm.create_model("vit_small_patch16_224")
    averages = [ModelEmaV3(model, decay=0.999, foreach=foreach) for foreach in (True, False)]
    with_it, without = ((lambda a=average: a.update(model)) for average in averages)
    yield compare("moving average by foreach / by tensor, ViT-S", with_it, without, rounds)


def fine_tuning(model: nn.Module, size: int, originals: int = 4, **autocast: Any) -> Callable[[], None]:
    """Forward and backward of a classifier."""
    images, target = torch.randn(originals, 3, size, size), torch.zeros(originals, dtype=torch.int64)
    if next(model.parameters()).is_contiguous(memory_format=torch.channels_last):
        images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, **(autocast or {"enabled": False})):
            loss = nn.functional.cross_entropy(model(images), target)
        loss.backward()
        model.zero_grad()

    return step


def layouts(rounds: int) -> Iterator[Figure]:
    """channels_last and bfloat16 in a training step."""
    for name in ("resnet50", "vit_small_patch16_224"):
        plain, nhwc = (timm.create_model(name).train() for _ in range(2))
        nhwc.to(memory_format=torch.channels_last)
        yield compare(
            f"channels_last / default, training {name}", fine_tuning(nhwc, 224), fine_tuning(plain, 224), rounds
        )
        half = fine_tuning(timm.create_model(name).train(), 224, enabled=True)
        yield compare(f"amp bf16 / no, training {name}", half, fine_tuning(plain, 224), rounds)


def attention(rounds: int) -> Iterator[Figure]:
    """Attention by torch's scaled_dot_product_attention against softmax(q k) v, a whole ViT-S at 224 and 448 px."""
    for size in (224, 448):
        models = [timm.create_model("vit_small_patch16_224", img_size=size).train() for _ in range(2)]
        for module in models[1].modules():
            if isinstance(module, Attention):
                module.fused_attn = False
        steps = [fine_tuning(model, size, images=2) for model in models]
        yield compare(f"SDPA / explicit attention, training ViT-S, {size} px", *steps, rounds)


def compiling(rounds: int) -> Iterator[Figure]:
    """--compile, after it has compiled; and how long that takes."""
    for name in ("resnet18", "vit_tiny_patch16_224"):
        plain = timm.create_model(name).train()
        compiled = fine_tuning(torch.compile(timm.create_model(name).train()), 224)
        start = time.process_time()
        compiled()
        took = time.process_time() - start
        yield compare(f"compile / eager, training {name}", compiled, fine_tuning(plain, 224), rounds)
        yield Figure(f"compiling {name}", took, "s")


def normalising(rounds: int) -> Iterator[Figure]:
    """What a worker saves when images leave it as uint8, to be normalised on the device: 16 images of 448 px."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, 448, 448, 3), dtype=np.uint8)
    images = [Image.fromarray(image) for image in pixels]
    normalise = ToNormalizedTensor(*normalization("imagenet"))

    def as_float() -> Tensor:
        return torch.stack([normalise(image) for image in images])

    def as_uint8() -> Tensor:
        return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])

    yield compare("uint8 / normalised float batches, a loader's last step an image", as_uint8, as_float, rounds, per=16)


def in_memory(rounds: int) -> Iterator[Figure]:
    """A batch of 128 images of 32 px, kept decoded and augmented as a batch, against files through the transform."""
    method = get_method("lsas")
    recipe = method.named_recipe("cifar10").recipe
    transform, batched = method.transform(recipe, True), method.batched_transform(recipe, True)
    assert batched is not None
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).integers(0, 255, (128, 32, 32, 3), dtype=np.uint8)
        for position, pixels in enumerate(noise):
            Image.fromarray(pixels).save(Path(folder) / f"{position}.png")
        records = tuple(Record(f"{position}.png", 0) for position in range(128))
        index = Index("some", "train", "singlelabel", ("a",), Path(folder), records)
        files = ImageDataset(index, transform)
        memory = InMemoryImages(index, transform, batched=batched)

        def from_memory() -> None:
            batch = memory.__getitems__(range(128))
            batched(batch["image"], batch["index"], batch["epoch"])

        yield compare(
            "in memory / from files, CIFAR's training pipeline, an image",
            from_memory,
            lambda: files.collate([files[position] for position in range(128)]),
            rounds,
            per=128,
        )


def prefetching(rounds: int) -> Iterator[Figure]:
    """A loader process beside the model against none: time by the clock, so an idle second core is needed."""
    with demo_set() as root:
        runs = [started(root, root / str(workers), workers=workers, image_size=64, batch_size=32) for workers in (1, 0)]
        spent: list[list[float]] = [[], []]
        for turn in range(rounds + 1):
            for times, run in zip(spent, runs, strict=True):
                start = time.perf_counter()
                for _ in range(10):
                    run._step()
                if turn:
                    times.append(time.perf_counter() - start)
        yield ratio_of(
            "one loader process / none, steps of the engine on the built-in scenes: by the clock", *spent, per=10
        )
        for run in runs:
            run.folder.close()
            del run.stepper
