"""How an image alone is shown to a segmenter, for maps: evaluation has label maps too, and every image its own size.

The pipelines of training and evaluation are data/transforms/segmentation.py's.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from attnbias.data.transforms.basic import Params
from attnbias.data.transforms.opencv import rescaled, resize_image
from attnbias.data.transforms.segmentation import normalized


class FitSquare(v2.Transform):
    """PIL image -> (3, size, size) float32: resized to fit, its ratio kept, normalised, padded below and right with
    the mean colour, as training pads. Boxes given beside it move along."""

    _transformed_types = (Image.Image, tv_tensors.BoundingBoxes)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[object]) -> Params:
        """Height and width of the resized image."""
        height, width = v2.functional.get_size(flat_inputs[0])
        return {"size": rescaled((height, width), (self.size, self.size))}

    def transform(self, inpt: Image.Image | tv_tensors.BoundingBoxes, params: Params) -> Tensor:
        """Transform the image, or its boxes."""
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            return v2.functional.resize(inpt, list(params["size"]))
        height, width = params["size"]
        image = normalized(resize_image(np.asarray(inpt), params["size"]))
        return F.pad(image, (0, self.size - width, 0, self.size - height))
