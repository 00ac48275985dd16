"""Corruptions that act on pixels where they lie: no image, a crop, masked blocks, blur."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from uedpo.corruption.base import Corruption
from uedpo.types import PositiveFloat, PositiveInt
from uedpo.types.layout import to_device

Share = Annotated[float, Gt(0.0), Le(1.0)]


class Blank(Corruption):
    """All pixels 0 after preprocessing: the "no image" of V-DPO."""

    spatial = False
    blanks = True

    def one(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(image)


class Crop(Corruption):
    """A random part of 1 to 20 % of the area, stretched to the whole: mDPO's, on images [C, H, W].

    Args:
        least, most: share of the area kept, drawn uniformly between them.
        seed: of the draw.
    """

    def __init__(self, least: Share = 0.01, most: Share = 0.2, seed: int = 0) -> None:
        if not 0 < least <= most <= 1:
            raise ValueError(f"least={least}, most={most}: must be 0 < least <= most <= 1")
        super().__init__(seed)
        self.least, self.most = least, most

    def one(self, image: Tensor, generator: torch.Generator) -> Tensor:
        height, width = image.shape[1:]
        area, top, left = torch.rand(3, generator=generator).tolist()
        side = (self.least + (self.most - self.least) * area) ** 0.5
        h, w = max(1, round(side * height)), max(1, round(side * width))
        y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
        part = image[None, :, y : y + h, x : x + w].float()
        whole = interpolate(part, (height, width), mode="bilinear", align_corners=False)
        return whole[0].to(image.dtype)


class Mask(Corruption):
    """A random share of square blocks set to the image's mean: OPA-DPO's, on images [C, H, W].

    Args:
        share: of the blocks; at least one, so an image never stays as it was.
        size: side of a block in pixels; 1 masks single pixels.
        seed: of the draw.
    """

    def __init__(self, share: Share = 0.3, size: PositiveInt = 1, seed: int = 0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: must be in (0, 1]")
        super().__init__(seed)
        self.share, self.size = share, size

    def one(self, image: Tensor, generator: torch.Generator) -> Tensor:
        height, width = image.shape[1:]
        rows, columns = -(-height // self.size), -(-width // self.size)
        order = torch.rand(rows * columns, generator=generator).argsort()
        hidden = torch.zeros(rows * columns, dtype=torch.bool)
        hidden[order[: max(1, round(self.share * len(order)))]] = True
        blocks = hidden.reshape(rows, columns).repeat_interleave(self.size, 0)
        cells = to_device(blocks.repeat_interleave(self.size, 1)[:height, :width], image.device)
        return torch.where(cells, image.float().mean().to(image.dtype), image)


class Blur(Corruption):
    """Gaussian blur, the same for every sample, on images [C, H, W].

    Args:
        sigma: standard deviation in pixels.
    """

    def __init__(self, sigma: PositiveFloat = 4.0, seed: int = 0) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma={sigma}: must be greater than 0")
        super().__init__(seed)
        self.sigma = sigma

    def one(self, image: Tensor, generator: torch.Generator) -> Tensor:
        height, width = image.shape[1:]
        radius = max(1, min(round(3 * self.sigma), height - 1, width - 1))
        at = torch.arange(-radius, radius + 1, device=image.device, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (at / self.sigma) ** 2)
        kernel = kernel / kernel.sum()
        flat = image.float()[:, None]
        flat = conv2d(pad(flat, (radius, radius, 0, 0), mode="reflect"), kernel[None, None, None])
        flat = conv2d(pad(flat, (0, 0, radius, radius), mode="reflect"), kernel[None, None, :, None])
        return flat[:, 0].to(image.dtype)
