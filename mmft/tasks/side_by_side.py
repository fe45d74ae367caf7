"""Layout of several tasks: their targets concatenated in one row's target, their outputs in one head's output.

Legend: B batch, R rows, F features, C outputs, W numbers in a row's target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmft.tasks.base import Task


class _Place(NamedTuple):
    target: slice  # the first number is 1 if the row has a label for the task, else 0
    outputs: slice
    like: Tensor  # a target of zeros with the task's shape and dtype


class SideBySide:
    """The slice of each task in a row's target (W,) and in the outputs (C,).

    Args:
        tasks: fitted tasks by name.
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
        """Targets by task, None without a label -> (W,) float64: per task a 0/1 flag, then the target or zeros."""
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
        """Targets (R, W) -> (R, ...) targets of one task; zeros for rows without a label."""
        place = self._places[name]
        return target[:, place.target][:, 1:].reshape(len(target), *place.like.shape).to(place.like.dtype)

    def labelled(self, name: str, target: Tensor) -> Tensor:
        """Targets (R, W) -> (R,) bool, True = the row has a label for the task."""
        return target[:, self._places[name].target.start] > 0

    def logits(self, name: str, logits: Tensor) -> Tensor:
        """(R, C) -> the columns of one task."""
        return logits[:, self._places[name].outputs]


class Heads(nn.Module):
    """Parallel heads whose outputs are concatenated."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, C)."""
        return torch.cat([head(features) for head in self.heads], dim=-1)
