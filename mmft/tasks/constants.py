"""A small tensor that a task computes with on whatever device and in whatever precision the batch is."""

from __future__ import annotations

import torch
from torch import Tensor


class Constant:
    """A tensor, and its copies by device and type: each is made once.

    Args:
        value: on the CPU.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, other: Tensor) -> Tensor:
        """The tensor in the type of `other`, on its device."""
        key = other.device, other.dtype
        if key not in self.copies:
            with torch.inference_mode(False):  # or what validation has copied could not be trained with
                self.copies[key] = self.value.to(other.device, other.dtype)
        return self.copies[key]
