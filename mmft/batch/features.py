"""`Features`: what the frozen part of an encoder computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Features(NamedTuple):
    """What the frozen part of an encoder computed of some rows, in place of their images or beside their texts.

    Which tensors these are, the encoder's `FrozenPart` says.
    """

    there: Tensor  # (B,) bool, True = the row's values are there
    values: tuple[Tensor, ...]  # (B, ...) each; zeros where they are not

    @classmethod
    def of_all(cls, values: tuple[Tensor, ...]) -> Features:
        """Of rows that all have them."""
        return cls(torch.ones(len(values[0]), dtype=torch.bool, device=values[0].device), values)

    def map(self, change: Callable[[Tensor], Tensor]) -> Features:
        """With every tensor changed."""
        return Features(change(self.there), tuple(map(change, self.values)))
