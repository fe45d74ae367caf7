"""Several tasks' targets in one row's target, and their outputs in one head's, side by side.

Legend: B batch, R rows, F features, C outputs, W numbers of a row's target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmft.tasks.base import Task


class _Place(NamedTuple):
    target: slice  # the first says whether the row has a label for the task
    outputs: slice
    like: Tensor  # a target of zeros, of the task's own shape and type


class SideBySide:
    """Where each task's numbers are in a row's target (W,) and in the outputs (C,).

    Args:
        tasks: by name, fitted.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._places: dict[str, _Place] = {}
        numbers, outputs = 0, 0
        for name, task in tasks.items():
            like = task.empty_target()
            size = 1 + like.numel()
            self._places[name] = _Place(slice(numbers, numbers + size), slice(outputs, outputs + task.width), like)
            numbers, outputs = numbers + size, outputs + task.width
        self.numbers, self.outputs = numbers, outputs

    def join(self, targets: Mapping[str, Any]) -> Tensor:
        """(W,) float64: for each task whether there is a target, and it; None: there is none."""
        joined = []
        for name, place in self._places.items():
            target = targets[name]
            numbers = place.like if target is None else torch.as_tensor(target)
            joined += [torch.tensor([target is not None], dtype=torch.float64), numbers.reshape(-1).double()]
        return torch.cat(joined)

    def empty(self) -> Tensor:
        """(W,) float64 zeros."""
        return torch.zeros(self.numbers, dtype=torch.float64)

    def targets(self, name: str, target: Tensor) -> Tensor:
        """Targets (R, W) -> (R, ...) one task's own; zeros for rows without a label."""
        place = self._places[name]
        return target[:, place.target][:, 1:].reshape(len(target), *place.like.shape).to(place.like.dtype)

    def labelled(self, name: str, target: Tensor) -> Tensor:
        """Targets (R, W) -> (R,) bool, True = the row has a label for the task."""
        return target[:, self._places[name].target.start] > 0

    def logits(self, name: str, logits: Tensor) -> Tensor:
        """(R, C) -> one task's own."""
        return logits[:, self._places[name].outputs]


class Heads(nn.Module):
    """Heads side by side."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, C)."""
        return torch.cat([head(features) for head in self.heads], dim=-1)
