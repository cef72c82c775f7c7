"""A network without its first weights: as names and shapes alone, or to be filled from a file.

Drawing the weights of a large network takes seconds, and what is filled from a file needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DRAWS: set[object] = {
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
    *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_),
}
"""What draws a parameter's first numbers in torch and timm, and what shapes them: truncated normal ones take five."""


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        given = kwargs or {}
        if func in DRAWS:
            filled = given["tensor"] if "tensor" in given else args[0]
            if isinstance(filled, nn.Parameter):
                return filled
        return func(*args, **given)


def undrawn() -> TorchFunctionMode:
    """The block in which a network is built whose every parameter is then filled: what would be drawn is arbitrary.

    Buffers are computed as ever.
    """
    return _Undrawn()


@contextmanager
def names_and_shapes() -> Iterator[None]:
    """The block in which a network is built without memory and without drawing numbers."""
    with torch.device("meta"), undrawn():
        yield
