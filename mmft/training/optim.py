"""Optimizers over the groups of a tuning plan."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.optim import SGD, AdamW, Optimizer

Groups = list[dict[str, Any]]


def adamw(groups: Groups, beta1: float, beta2: float, eps: float) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101); fused on the CPU and on CUDA."""
    return AdamW(groups, betas=(beta1, beta2), eps=eps, fused=_can_fuse(groups))


def sgd(groups: Groups, momentum: float, nesterov: bool) -> Optimizer:
    """Stochastic gradient descent with momentum; fused on the CPU and on CUDA."""
    fused = _can_fuse(groups) and not any(isinstance(p, DTensor) for g in groups for p in g["params"])  # torch cannot
    return SGD(groups, lr=groups[0]["lr"], momentum=momentum, nesterov=nesterov, fused=fused)


def _can_fuse(groups: Groups) -> bool:
    fusable = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return all(p.device.type in ("cpu", "cuda") and p.dtype in fusable for g in groups for p in g["params"])
