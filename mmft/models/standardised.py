"""Features with a mean of 0 and a deviation of 1.

Legend: R rows, F width of the features.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

_CONSTANT = 1e-6  # deviation, relative to the values, of a feature that carries nothing but rounding


class Standardised(NamedTuple):
    """How features are centred and scaled to a deviation of 1; constant ones become 0."""

    mean: Tensor  # (F,)
    scale: Tensor  # (F,)

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """From features (R, F)."""
        mean, std = features.mean(0), features.std(0, correction=0)
        varies = std > _CONSTANT * features.abs().amax(0)
        return cls(mean, torch.where(varies, 1 / std, 0.0))

    def __call__(self, features: Tensor) -> Tensor:
        """(R, F) -> (R, F)."""
        return (features - self.mean) * self.scale
