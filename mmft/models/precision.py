"""Autocast for `trainer.precision`, and the minimum precision where 16 bits are too coarse."""

from __future__ import annotations

import torch
from torch import Tensor

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of a forward pass in `precision`; no effect for `32-true` and `64-true`."""
    return torch.autocast(device.type, _AUTOCAST.get(precision, torch.bfloat16), enabled=precision in _AUTOCAST)


def at_least_float32(values: Tensor) -> Tensor:
    """Casts 16-bit values to float32 for losses and metrics: 16 bits are too coarse for a softmax or an error."""
    return values if values.dtype == torch.float64 else values.float()
