"""mixup and cutmix of two images. Both draw from torch's global generator, see `mmft.data.images.augment.drawing_from`.

Legend: H W image height and width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mixup(own: Tensor, other: Tensor, share: float) -> tuple[Tensor, float]:
    """Blends two images (Zhang et al. 2018, arXiv 1710.09412).

    Args:
        own: (3, H, W) uint8.
        other: (3, H, W) uint8.
        share: of `other`, from 0 to 1.

    Returns:
        (3, H, W) uint8, rounded, and `share`.
    """
    return torch.lerp(own.float(), other.float(), share).round_().to(torch.uint8), share


def cutmix(own: Tensor, other: Tensor, share: float) -> tuple[Tensor, float]:
    """Puts a rectangle of `other` into `own`, in the same place (Yun et al. 2019, arXiv 1905.04899).

    The rectangle's sides are sqrt(`share`) times the image's; its centre is uniform, so it may be clipped at the edges.

    Args:
        own: (3, H, W) uint8.
        other: (3, H, W) uint8.
        share: area of the unclipped rectangle relative to the image, from 0 to 1.

    Returns:
        (3, H, W) uint8, and the actual share of `other`.
    """
    height, width = own.shape[1:]
    rows, columns = (_span(length, int(length * math.sqrt(share))) for length in (height, width))
    mixed = own.clone()
    mixed[:, rows, columns] = other[:, rows, columns]
    return mixed, (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def _span(length: int, size: int) -> slice:
    """`size` of `length` pixels around a random one, clipped to the image."""
    first = int(torch.randint(length, ())) - size // 2
    return slice(max(0, first), min(length, first + size))
