"""How precise numbers must be where bfloat16 is too coarse."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """In the precision that losses, metrics and lengths need; bfloat16 is too coarse for a softmax or an error."""
    return values if values.dtype == torch.float64 else values.float()
