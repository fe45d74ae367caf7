"""Opens every image of a split once and keeps fingerprints for comparison.

Legend: n rows, S side of the decoded image in pixels, 256 bits of a hash in 32 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]

from mmft.batch import BadRow
from mmft.data.images.image import ImageReader, image_size
from mmft.data.images.mending import BadImage
from mmft.data.splitting.splits import Split

BITS = 256
"""Bits of a perceptual hash."""

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
_SIDE, _KEPT, _THUMB = 64, 16, 8  # sides of the hashed image, of the kept frequencies, of the thumbnail
_FLAT = 2.0  # levels of 255; an image that deviates less from its mean is blank


class Print(NamedTuple):
    """The fingerprint of one row."""

    position: int
    bad: BadRow | None = None
    digest: bytes = b""  # of the decoded pixels; empty without an image
    bits: npt.NDArray[np.uint8] | None = None  # (32,)
    thumb: npt.NDArray[np.uint8] | None = None  # (192,)
    blank: bool = False
    side: int = 0  # the stored image's shorter side, in pixels


class Prints(NamedTuple):
    """Fingerprints of a split's images, by position; zeros for rows without a usable image.

    Attributes:
        bad: rows that could not be used.
        digests: (n,) of the decoded pixels; empty without an image.
        bits: (n, 32) uint8 perceptual hashes.
        thumbs: (n, 192) uint8 thumbnails of 8 x 8 pixels.
        blank: (n,) bool, single-colour images.
        sides: (n,) int64, the stored image's shorter side in pixels; 0 without an image.
    """

    bad: list[BadRow]
    digests: list[bytes]
    bits: npt.NDArray[np.uint8]
    thumbs: npt.NDArray[np.uint8]
    blank: npt.NDArray[np.bool_]
    sides: npt.NDArray[np.int64]

    @property
    def comparable(self) -> npt.NDArray[np.bool_]:
        """(n,) True = image that is not blank."""
        return (self.sides > 0) & ~self.blank


class _Scan(Dataset[Print]):
    """Position -> the row's fingerprint; reads images as training does."""

    def __init__(self, split: Split, reader: ImageReader, bad: Container[int]) -> None:
        self.split, self.reader, self.bad = split, reader, bad

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> Print:
        row, table = int(self.split.rows[position]), self.split.table
        source = None if row in self.bad else table.image(row)
        if source is None:
            return Print(position)
        try:
            return _print_of(position, self.reader(source), min(image_size(source)))
        except BadImage as error:
            return Print(position, table.bad_row(row, table.columns.image or "", str(error)))


def _print_of(position: int, pixels: Tensor, side: int) -> Print:
    blank = bool(pixels.flatten(1).float().std(dim=1).max() < _FLAT)
    digest = blake2b(pixels.contiguous().numpy().tobytes(), digest_size=16).digest()
    thumb = F.resize(pixels, [_THUMB, _THUMB], antialias=True).flatten().numpy()
    return Print(position, None, digest, perceptual_hash(pixels), thumb, blank, side)


def perceptual_hash(pixels: Tensor) -> npt.NDArray[np.uint8]:
    """A hash that changes little under scaling, recompression or slight edits (pHash, Zauner 2010).

    Uses the lowest 16 x 16 frequencies of a discrete cosine transform of the grey image at 64 x 64 pixels; a bit says
    whether a frequency is above their median.

    Args:
        pixels: (3, S, S) uint8.

    Returns:
        (32,) uint8, 256 bits.
    """
    small = F.resize(pixels, [_SIDE, _SIDE], antialias=True).float()
    grey = (small * torch.tensor(_GREY)[:, None, None]).sum(0)
    frequencies = _cosines() @ grey @ _cosines().T
    return np.packbits((frequencies > frequencies.median()).flatten().numpy())


@cache
def _cosines() -> Tensor:
    """(16, 64) the first rows of the cosine transform (DCT-II)."""
    at = torch.arange(_SIDE)
    return torch.cos(torch.pi * (2 * at[None] + 1) * at[:_KEPT, None] / (2 * _SIDE))


def scan(
    split: Split, reader: ImageReader, bad: Container[int], num_workers: int, tick: Callable[[int], None]
) -> Prints:
    """Opens every image of a split.

    Args:
        split: the rows.
        reader: as in training.
        bad: numbers of known bad rows, which are skipped.
        num_workers: processes that decode; 0 decodes in this one.
        tick: called with the number of rows done since the last call.
    """
    n = len(split)
    prints = Prints(
        [],
        [b""] * n,
        np.zeros((n, BITS // 8), np.uint8),
        np.zeros((n, 3 * _THUMB**2), np.uint8),
        np.zeros(n, bool),
        np.zeros(n, np.int64),
    )
    loader: DataLoader[Print] = DataLoader(
        _Scan(split, reader, bad), batch_size=32, num_workers=num_workers, collate_fn=list
    )
    for batch in loader:
        for one in batch:
            _keep(prints, one)
        tick(len(batch))
    return prints


def _keep(prints: Prints, one: Print) -> None:
    if one.bad is not None:
        prints.bad.append(one.bad)
    if one.bits is not None and one.thumb is not None:
        prints.digests[one.position] = one.digest
        prints.bits[one.position], prints.thumbs[one.position] = one.bits, one.thumb
        prints.blank[one.position], prints.sides[one.position] = one.blank, one.side


def nearest_images(prints: Prints, others: Prints, bits: int, levels: float) -> list[tuple[int, int, int]]:
    """The most similar image of another split for each image, if it is similar enough.

    All pairs are compared, as matrix products: a million images against a hundred thousand take minutes, less than
    opening them.

    Args:
        prints: n of them.
        others: m of them.
        bits: maximum number of differing bits, out of 256.
        levels: maximum mean difference of the thumbnails' pixels, out of 255; a hash ignores colour.

    Returns:
        (position, position in others, differing bits), by fewest bits, then first position.
    """
    mine, theirs = np.flatnonzero(prints.comparable), np.flatnonzero(others.comparable)
    found: list[tuple[int, int, int]] = []
    for block in np.array_split(mine, max(1, len(mine) // 512)):
        best = np.full(len(block), BITS + 1)
        where = np.zeros(len(block), np.int64)
        for other in np.array_split(theirs, max(1, len(theirs) // 8192)):
            distance = hamming(prints.bits[block], others.bits[other])
            for row, column in zip(*np.nonzero(distance <= bits), strict=True):
                if distance[row, column] < best[row] and _alike(
                    prints.thumbs[block[row]], others.thumbs[other[column]], levels
                ):
                    best[row], where[row] = distance[row, column], other[column]
        found += [
            (int(position), int(at), int(d)) for position, at, d in zip(block, where, best, strict=True) if d <= bits
        ]
    return found


def hamming(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(n, 32) and (m, 32) uint8 -> (n, m) int64, number of differing bits out of 256."""
    signs = [torch.from_numpy(np.unpackbits(bits, axis=1)).float() * 2 - 1 for bits in (left, right)]
    same_minus_different = signs[0] @ signs[1].T  # exact: sums of 256 ones
    distance: npt.NDArray[np.int64] = ((BITS - same_minus_different) / 2).to(torch.int64).numpy()
    return distance


def _alike(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8], levels: float) -> bool:
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean()) <= levels
