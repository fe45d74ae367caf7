"""Losses that torch lacks: focal and asymmetric, for rare classes and labels; and losses of mixed targets.

All return unreduced losses; the caller sums and divides. Focal and asymmetric loss use log probabilities, never the
log of a probability that may have been rounded to 0.

Legend: B batch, C classes or labels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mmft.batch import Batch


def focal_loss(logits: Tensor, target: Tensor, gamma: float, weight: Tensor | None = None) -> Tensor:
    """-(1 - p)^gamma log p of the target's probability p (Lin et al. 2017, arXiv 1708.02002, equation 5).

    Args:
        logits: (B, C) of mutually exclusive classes.
        target: (B,) int64 true class.
        gamma: at least 0; 0 is cross-entropy. Larger values down-weight rows that are already classified well.
        weight: (C,) class weights, alpha in the paper; None for 1.

    Returns:
        (B,) loss of each row.
    """
    log_p = -functional.cross_entropy(logits, target, reduction="none")  # (B,)
    losses = -_power(-torch.expm1(log_p), gamma) * log_p  # (B,); -expm1 is 1 - p, exact near p = 1
    return losses if weight is None else losses * weight[target]


def asymmetric_loss(logits: Tensor, target: Tensor, gamma_pos: float, gamma_neg: float, clip: float) -> Tensor:
    """The asymmetric multi-label loss (Ben-Baruch et al. 2021, arXiv 2009.14119, equation 7), unreduced.

    For a present label -(1 - p)^gamma_pos log p, for an absent one -q^gamma_neg log(1 - q) with q = max(p - clip, 0):
    an absent label with a probability below `clip` costs nothing. The gradient flows through both factors, as in the
    paper's analysis.

    Args:
        logits: (B, C); p is their sigmoid.
        target: (B, C) 1 or True = the row has the label.
        gamma_pos: at least 0.
        gamma_neg: at least 0.
        clip: at least 0, below 1.

    Returns:
        (B, C) loss of each label.
    """
    there = functional.logsigmoid(logits) * _power(torch.sigmoid(-logits), gamma_pos)  # (B, C)
    p = torch.sigmoid(logits)
    q = (p - clip).clamp_min(0)
    log_rest = functional.logsigmoid(-logits) if clip == 0 else torch.log1p(-q)  # log(1 - q), stable near q = 1
    absent = log_rest * _power(q, gamma_neg)  # (B, C)
    return -torch.where(target.bool(), there, absent)


def of_mixed(value: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """`value` of the rows' own and mixed-in targets (mixup, cutmix), averaged by their shares.

    Cross-entropy is linear in the target, also with class weights and label smoothing, so this equals its value for the
    mixed target.

    Args:
        value: targets (B,) -> (B,) one number per row.
        batch: with targets, mixed or not.
    """
    assert batch.target is not None
    values = value(batch.target)  # (B,)
    if batch.mixed_target is None or batch.mixed_share is None:
        return values
    return torch.lerp(values, value(batch.mixed_target), batch.mixed_share.to(values.dtype))


def _power(base: Tensor, exponent: float) -> Tensor:
    """Non-negative `base` to a non-negative power; clamped away from 0, where the gradient of a root is infinite."""
    smallest = torch.finfo(base.dtype).tiny
    return torch.ones_like(base) if exponent == 0 else base.clamp_min(smallest) ** exponent
