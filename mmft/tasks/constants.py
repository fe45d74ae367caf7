"""A small constant tensor that follows the batch's device and dtype."""

from __future__ import annotations

import torch
from torch import Tensor


class Constant:
    """A tensor with one cached copy per device and dtype.

    Args:
        value: the tensor, on the CPU.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, other: Tensor) -> Tensor:
        """The tensor in the dtype and on the device of `other`."""
        key = other.device, other.dtype
        if key not in self.copies:
            with torch.inference_mode(False):  # a copy made during validation must be usable in training
                self.copies[key] = self.value.to(other.device, other.dtype)
        return self.copies[key]
