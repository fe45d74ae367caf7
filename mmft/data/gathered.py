"""`Gathered`: rows of which nothing is decoded, as arrays instead of one `Sample` each.

Making a sample of a row takes longer than a step of a small head. Where the store has all images of a batch, or the
table has none, the batch is made at once.

Legend: B good rows, L text tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmft.batch import BadRow
from mmft.data.text import Tokens

Positions = npt.NDArray[np.int64]
NOBODY = -1
"""In place of a position: the row gets nothing."""


class Gathered(NamedTuple):
    """What the samples of some rows hold."""

    row: Tensor  # (B,) int64
    weight: Tensor  # (B,) float32
    target: Tensor | None  # (B, ...)
    identity: Tensor | None  # (B, 3)
    image: Positions  # (B,) position of each image in the store; `NOBODY` for a row without one
    text: Positions  # (B,) the same of texts
    tokens: Tokens  # of the split
    place: Positions  # (B,) position of each row in it
    references: tuple[tuple[str, ...], ...]  # (B,), or empty
    bad: tuple[BadRow, ...]
    needs_no_tokens: bool = False  # what the store has of the texts is all that is read of them

    @property
    def image_present(self) -> Tensor:
        """(B,) bool."""
        return torch.from_numpy(self.image != NOBODY)

    @property
    def lengths(self) -> Positions:
        """(B,) tokens of each text; 0 for a row without one."""
        found: Positions = self.tokens.offsets[self.place + 1] - self.tokens.offsets[self.place]
        return found

    def texts(self, empty: Tensor, length: int, pad_id: int) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) int64 and mask (B, L) bool, True = real token.

        Args:
            empty: tokens of a row without a text.
            length: L.
            pad_id: the padding id.
        """
        lengths, columns = self.lengths, np.arange(length)
        real = columns < lengths[:, None]  # (B, L)
        at = np.where(real, self.tokens.offsets[self.place][:, None] + columns, 0)
        ids = torch.from_numpy(np.where(real, self.tokens.ids[at], pad_id).astype(np.int64))
        mask = torch.from_numpy(real)
        if not (lengths > 0).all():
            missing = torch.from_numpy(lengths == 0)
            ids[missing, : len(empty)] = empty
            mask[missing, : len(empty)] = True
        return ids, mask
