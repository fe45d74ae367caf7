"""Losses that torch does not have: focal and asymmetric, for classes and labels that are rare; and of mixed targets.

All give each row's loss by itself, so that whoever adds rows up keeps the right divisor. The first two are computed
from log probabilities, never from the log of a probability that may have been rounded to 0.

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
        logits: (B, C), of classes of which one is right.
        target: (B,) int64 the right class.
        gamma: at least 0; with 0 it is cross-entropy. Rows that are right already count for less the larger it is.
        weight: (C,) each class's, alpha in the paper; None: all 1.

    Returns:
        (B,) each row's loss.
    """
    log_p = -functional.cross_entropy(logits, target, reduction="none")  # (B,)
    losses = -_power(-torch.expm1(log_p), gamma) * log_p
    return losses if weight is None else losses * weight[target]


def asymmetric_loss(logits: Tensor, target: Tensor, gamma_pos: float, gamma_neg: float, clip: float) -> Tensor:
    """The asymmetric loss of labels (Ben-Baruch et al. 2021, arXiv 2009.14119, equation 7), each label by itself.

    Where the label is there -(1 - p)^gamma_pos log p, elsewhere -q^gamma_neg log(1 - q) with q = max(p - clip, 0): a
    label that is absent and thought less likely than `clip` costs nothing. The gradient goes through both factors, as
    in the paper's analysis.

    Args:
        logits: (B, C); p is their sigmoid.
        target: (B, C) 1 or True where the label is there.
        gamma_pos: at least 0.
        gamma_neg: at least 0.
        clip: from 0 to below 1.

    Returns:
        (B, C).
    """
    there = functional.logsigmoid(logits) * _power(torch.sigmoid(-logits), gamma_pos)
    p = torch.sigmoid(logits)
    q = (p - clip).clamp_min(0)
    log_rest = functional.logsigmoid(-logits) if clip == 0 else torch.log1p(-q)
    absent = log_rest * _power(q, gamma_neg)
    return -torch.where(target.bool(), there, absent)


def of_mixed(value: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """What `value` makes of the rows' targets, and of those that are mixed in (mixup, cutmix), by their shares.

    Cross-entropy is linear in the target, with class weights and label smoothing as well: it is that of the mixed one.

    Args:
        value: targets (B,) -> (B,) a number for each row.
        batch: with targets, mixed or not.

    Returns:
        (B,).
    """
    assert batch.target is not None
    values = value(batch.target)
    if batch.mixed_target is None or batch.mixed_share is None:
        return values
    return torch.lerp(values, value(batch.mixed_target), batch.mixed_share.to(values.dtype))


def _power(base: Tensor, exponent: float) -> Tensor:
    """`base` (from 0) to a power from 0; away from 0, where the gradient of a root is infinite."""
    smallest = torch.finfo(base.dtype).tiny
    return torch.ones_like(base) if exponent == 0 else base.clamp_min(smallest) ** exponent
