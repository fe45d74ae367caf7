"""Squares of one size from images of any, as the image processors of transformers make them."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]

from mmft.config.schema.data import DataConfig

Resize = Literal["squash", "crop", "pad"]
Resample = Literal["bicubic", "bilinear"]

_STRIP = 64
"""An image that is more than so many times as long as it is wide is cropped before it is scaled, to save memory."""


class Squaring(NamedTuple):
    """How images are made square.

    Attributes:
        resize: `squash` ignores the aspect ratio, `crop` scales the shorter side and takes the centre square, `pad`
            scales the longer side and adds bars.
        resample: how pixels are interpolated, with antialiasing.
        crop_pct: with `squash` and `crop`, the side of the square as a share of the scaled image's, whose centre it is.
    """

    resize: Resize
    resample: Resample = "bicubic"
    crop_pct: float = 1.0

    def scaled(self, side: int) -> int:
        """To how many pixels an image is scaled of which a square of `side` pixels is cut."""
        return round(side / self.crop_pct)


def squaring(config: DataConfig) -> Squaring:
    """How a run's images are made square; a pair's own way has been chosen before (`build.choose_for_pair`)."""
    return Squaring(config.resize or "squash", config.resample or "bicubic", config.crop_pct or 1.0)


def squared(pixels: Tensor, size: int, how: Squaring, background: tuple[int, ...]) -> Tensor:
    """(3, h, w) -> (3, S, S), both uint8.

    Args:
        pixels: a channels-last view is resized twice as fast.
        size: S.
        how: the way to the square.
        background: colour of the bars, red, green, blue.
    """
    resize, inner = how.resize, how.scaled(size)
    scale = partial(_scaled, mode=F.InterpolationMode(how.resample))
    height, width = pixels.shape[1:]
    shorter, longer = min(height, width), max(height, width)
    if resize == "squash":
        return _centre(scale(pixels, inner, inner), size).contiguous()
    if resize == "crop":
        if longer > _STRIP * shorter:
            pixels = _centre(pixels, shorter)
            height = width = shorter
        return _centre(scale(pixels, inner * height // shorter, inner * width // shorter), size).contiguous()
    scaled = scale(pixels, max(1, round(size * height / longer)), max(1, round(size * width / longer)))
    top, left = (size - scaled.shape[1]) // 2, (size - scaled.shape[2]) // 2
    padded = torch.tensor(background, dtype=torch.uint8)[:, None, None].repeat(1, size, size)
    padded[:, top : top + scaled.shape[1], left : left + scaled.shape[2]] = scaled
    return padded


def _centre(pixels: Tensor, side: int) -> Tensor:
    """The square in the middle, offsets rounded down."""
    top, left = ((length - side) // 2 for length in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side]


def _scaled(pixels: Tensor, height: int, width: int, mode: Any) -> Tensor:
    found: Tensor = F.resize(pixels, [height, width], interpolation=mode, antialias=True)
    return found
