"""Squares of one size from images of any, as the image processors of transformers make them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]

from mmft.config.schema.data import DataConfig

Resize = Literal["squash", "crop", "pad"]

_STRIP = 64
"""An image that is more than so many times as long as it is wide is cropped before it is scaled, to save memory."""


def squaring(config: DataConfig) -> Resize:
    """How images are made square; a pair's own way has been chosen before (`build.choose_for_pair`)."""
    return config.resize or "squash"


def squared(pixels: Tensor, size: int, resize: Resize, background: tuple[int, ...]) -> Tensor:
    """(3, h, w) -> (3, S, S), both uint8.

    Args:
        pixels: a channels-last view is resized twice as fast.
        size: S.
        resize: `squash` ignores the aspect ratio, `crop` scales the shorter side and takes the centre square, `pad`
            scales the longer side and adds bars.
        background: colour of the bars, red, green, blue.
    """
    height, width = pixels.shape[1:]
    shorter, longer = min(height, width), max(height, width)
    if resize == "squash":
        return _scaled(pixels, size, size).contiguous()
    if resize == "crop":
        if longer > _STRIP * shorter:
            pixels = _centre(pixels, shorter)
            height = width = shorter
        return _centre(_scaled(pixels, size * height // shorter, size * width // shorter), size).contiguous()
    scaled = _scaled(pixels, max(1, round(size * height / longer)), max(1, round(size * width / longer)))
    top, left = (size - scaled.shape[1]) // 2, (size - scaled.shape[2]) // 2
    padded = torch.tensor(background, dtype=torch.uint8)[:, None, None].repeat(1, size, size)
    padded[:, top : top + scaled.shape[1], left : left + scaled.shape[2]] = scaled
    return padded


def _centre(pixels: Tensor, side: int) -> Tensor:
    """The square in the middle, offsets rounded down."""
    top, left = ((length - side) // 2 for length in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side]


def _scaled(pixels: Tensor, height: int, width: int) -> Tensor:
    found: Tensor = F.resize(pixels, [height, width], interpolation=F.InterpolationMode.BICUBIC, antialias=True)
    return found
