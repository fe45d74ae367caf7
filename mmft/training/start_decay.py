"""Decoupled decay of trained weights toward their start, L2-SP (Li et al. 2018, arXiv 1802.01483).

As AdamW's decay toward zero (Loshchilov and Hutter 2019, arXiv 1711.05101) it is no part of the loss: neither clipped
nor scaled by the moments, and applied once per optimizer step, whatever the micro-batches and ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from mmft.training.parallel.collectives import summed
from mmft.training.parallel.sharding import like
from mmft.tuning.plan import Group, TuningPlan


class StartDecay:
    """Before a step, w <- w - lr * decay * (w - start), for the groups of a plan with a `start_decay`.

    Args:
        plan: its parameters have their starting values, which are copied.
    """

    def __init__(self, plan: TuningPlan) -> None:
        self.plan = plan
        self._start = {
            name: parameter.detach().clone()
            for group in plan.groups
            if group.start_decay
            for name, parameter in group.parameters.items()
        }

    def step(self, optimizer: Any) -> None:
        """Moves every weight that has a gradient; `optimizer` is over the plan's groups."""
        with torch.no_grad():
            for settings, group in zip(optimizer.param_groups, self.plan.groups, strict=True):
                share = settings["lr"] * group.start_decay
                for parameter, start in self._pairs(group):
                    if parameter.grad is not None:
                        _local(parameter).lerp_(start, share)

    def penalty(self) -> Tensor:
        """() float64, the sum of decay / 2 * (w - start)^2, whose gradient times the rate is the decay; over shards."""
        total: Tensor | float = 0.0
        sharded = False
        with torch.no_grad():
            for group in self.plan.groups:
                for parameter, start in self._pairs(group):
                    distance = (_local(parameter) - start).double().square().sum()
                    total, sharded = total + group.start_decay / 2 * distance, isinstance(parameter, DTensor)
        assert isinstance(total, Tensor)
        return summed(total) if sharded else total

    def _pairs(self, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
        """The group's parameters with this rank's part of their start, on their device and in their dtype."""
        for name, parameter in group.parameters.items() if group.start_decay else ():
            start, own = self._start[name], _local(parameter)
            if start.shape != own.shape or start.device != own.device or start.dtype != own.dtype:
                start = self._start[name] = _local(like(start, parameter)).to(own.dtype)
            yield parameter, start


def _local(value: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor; anything else unchanged."""
    return value.to_local() if isinstance(value, DTensor) else value
