"""What a task scores, without a model: batches of targets and weights, outputs of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from mmft.batch import Batch, Outputs


def batch(target: Tensor, weight: Tensor | None = None) -> Batch:
    rows = len(target)
    there = torch.ones(rows, dtype=torch.bool)
    weight = torch.ones(rows) if weight is None else weight
    return Batch(None, None, None, there, there, torch.arange(rows), weight, target)


def outputs(logits: Tensor) -> Outputs:
    return Outputs(logits, logits, logits)
