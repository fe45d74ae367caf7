"""Weights of a run in a model of transformers that is built for an export."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies weights; what a run lacks, since nothing that it computes depends on it, becomes zero: a mask token."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    with torch.no_grad():
        for name in missing:
            model.get_parameter(name).zero_()
