"""Images of which a row has any number, each in any number of pieces.

Two indices say what belongs together: `Images.count` from rows to images, `Pieces.about` from images to pieces.

Legend: B rows, I images, P pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmft.batch.features import Features


@dataclass(frozen=True, slots=True)
class Pieces:
    """Images cut into pieces: tiles, or the patches of a model that reads images of any size.

    Attributes:
        about: (I, K) int64: how many pieces an image has, and what else its model's processor says about it.
        values: (P, ...) uint8 the pieces of held images, one image after another.
        held: (I,) bool, False = the image's pieces are not here, but what a frozen part made of them, or nothing is.
    """

    about: Tensor
    values: Tensor
    held: Tensor

    def __len__(self) -> int:
        return len(self.about)

    def __getitem__(self, images: Tensor | slice) -> Pieces:
        """Some of the images, in this order."""
        which = torch.arange(len(self), device=self.about.device)[images]
        values = self.values[members(self.about[:, 0] * self.held, which)]
        return Pieces(self.about[images], values, self.held[images])

    def map(self, change: Callable[[Tensor], Tensor]) -> Pieces:
        """With every tensor changed."""
        return Pieces(change(self.about), change(self.values), change(self.held))

    def to(self, *where: Any, **how: Any) -> Pieces:
        """On a device."""
        return self.map(lambda t: t.to(*where, **how))

    @classmethod
    def together(cls, every: Sequence[Pieces]) -> Pieces:
        """The images of several, in order."""
        values = [one.values for one in every if len(one.values)] or [every[0].values]
        return cls(torch.cat([one.about for one in every]), torch.cat(values), torch.cat([one.held for one in every]))

    @classmethod
    def of_square(cls, pixels: Tensor) -> Pieces:
        """An image (3, S, S) in one piece, of which nothing else is known."""
        return cls(torch.ones(1, 1, dtype=torch.int64), pixels[None], torch.ones(1, dtype=torch.bool))

    def without_values(self) -> Pieces:
        """The same images with no pieces here."""
        return Pieces(self.about, self.values[:0], torch.zeros_like(self.held))


@dataclass(frozen=True, slots=True)
class Images:
    """The images of B rows.

    Attributes:
        count: (B,) int64 images of each row.
        pieces: of these images, one row after another.
        kept: what a frozen part made of the images (I,); None if nothing is kept.
    """

    count: Tensor
    pieces: Pieces
    kept: Features | None = None

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, rows: Tensor | slice) -> Images:
        """Some of the rows, in this order."""
        which = members(self.count, torch.arange(len(self), device=self.count.device)[rows])
        return Images(self.count[rows], self.pieces[which], self._kept(lambda t: t[which]))

    def map(self, change: Callable[[Tensor], Tensor]) -> Images:
        """With every tensor changed."""
        return Images(change(self.count), self.pieces.map(change), self._kept(change))

    def to(self, *where: Any, **how: Any) -> Images:
        """On a device."""
        return self.map(lambda t: t.to(*where, **how))

    def pin_memory(self) -> Images:
        """In page-locked memory."""
        return self.map(lambda t: t.pin_memory())

    def _kept(self, change: Callable[[Tensor], Tensor]) -> Features | None:
        return None if self.kept is None else self.kept.map(change)


class ImagesInPrompt(Protocol):
    """How images become pieces, and what is written for them, which depends on each.

    Attributes:
        missing: what stands for the image of a row without one.
        room: tokens that a prompt with its images may have; None for any number.
        cuts: whether images are cut; else they are in pieces only where a row has several.
    """

    missing: Pieces
    cuts: bool
    room: int | None

    def cut(self, pixels: npt.NDArray[np.uint8]) -> Pieces:
        """(H, W, 3) RGB -> the image's pieces."""

    def known(self, about: Tensor) -> Pieces:
        """An image (K,) whose pieces are not needed."""

    def counts(self, about: Tensor) -> Tensor:
        """(I, K) -> (I,) int64 tokens of each image."""

    def expanded(self, ids: list[int], about: Tensor) -> list[int]:
        """A prompt's tokens with a mark for each token of its images (I, K), in place of one mark for each image."""


def members(lengths: Tensor, groups: Tensor) -> Tensor:
    """Places of the members of some groups, where groups of these lengths lie one after another.

    >>> members(torch.tensor([2, 0, 3]), torch.tensor([2, 0])).tolist()
    [2, 3, 4, 0, 1]

    Args:
        lengths: (G,) int64.
        groups: (H,) int64 numbers of groups, in the order that is wanted.
    """
    starts, own = lengths.cumsum(0) - lengths, lengths[groups]
    before = own.cumsum(0) - own
    first = (starts[groups] - before).repeat_interleave(own)
    return first + torch.arange(len(first), device=first.device)


def padded(values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Members (T, ...) of groups one after another -> padded with zeros (G, M, ...), and mask (G, M), True = real."""
    mask = torch.arange(int(lengths.max()) if len(lengths) else 0, device=lengths.device) < lengths[:, None]
    padded = values.new_zeros(*mask.shape, *values.shape[1:])
    return padded.masked_scatter(mask.view(*mask.shape, *[1] * (values.ndim - 1)), values), mask
