"""Optimizers over the parameter groups of a tuning plan."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.optim import SGD, AdamW, Optimizer

log = logging.getLogger(__name__)

Groups = list[dict[str, Any]]


def adamw(groups: Groups, beta1: float, beta2: float, eps: float) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101); fused on the CPU and on CUDA."""
    return AdamW(groups, betas=(beta1, beta2), eps=eps, fused=_can_fuse(groups))


def sgd(groups: Groups, momentum: float, nesterov: bool) -> Optimizer:
    """Stochastic gradient descent with momentum; fused on the CPU and on CUDA."""
    fused = _can_fuse(groups) and not any(isinstance(p, DTensor) for g in groups for p in g["params"])  # torch cannot
    return SGD(groups, lr=groups[0]["lr"], momentum=momentum, nesterov=nesterov, fused=fused)


def adamw_8bit(groups: Groups, beta1: float, beta2: float, eps: float) -> Optimizer:
    """AdamW with both moments in 8 bits, scaled in blocks of 256 (Dettmers et al. 2022, arXiv 2110.02861).

    Takes 2 bytes of state per trained value instead of 8. Parameters of fewer than 4,096 values (norms, biases, LoRA
    matrices of a small encoder) keep 32 bits, since they would save nothing and lose accuracy: bitsandbytes'
    `min_8bit_size`.
    """
    return _of_bitsandbytes("AdamW8bit", groups, beta1, beta2, eps)


def paged_adamw(groups: Groups, beta1: float, beta2: float, eps: float) -> Optimizer:
    """AdamW with 32-bit moments in pages that a full GPU moves to CPU memory (as in arXiv 2305.14314).

    Moments of parameters of fewer than 100,000 values stay on the GPU.
    """
    return _of_bitsandbytes("PagedAdamW", groups, beta1, beta2, eps)


def paged_adamw_8bit(groups: Groups, beta1: float, beta2: float, eps: float) -> Optimizer:
    """`adamw_8bit` with the paging of `paged_adamw`, small parameters included."""
    return _of_bitsandbytes("PagedAdamW8bit", groups, beta1, beta2, eps)


def _of_bitsandbytes(name: str, groups: Groups, beta1: float, beta2: float, eps: float) -> Optimizer:
    from bitsandbytes import optim  # takes a second, and only these optimizers need it

    kind = getattr(optim, name)
    if not name.startswith("Paged"):
        return kind(groups, betas=(beta1, beta2), eps=eps)  # type: ignore[no-any-return]

    class Paged(kind):  # type: ignore[misc, valid-type]
        """Pages loaded moments too; after a resume bitsandbytes' own keeps them on the GPU."""

        def to_gpu(self) -> None:
            """Called before the first step, when the only moments are loaded ones."""
            for parameter, state in self.state.items():
                for moment in ("state1", "state2"):
                    loaded = state[moment]
                    state[moment] = self.get_state_buffer(parameter, dtype=loaded.dtype).copy_(loaded)
            super().to_gpu()

    optimizer: Any = Paged(groups, betas=(beta1, beta2), eps=eps)
    optimizer._cpu_paged_warned = True  # replaced by the warning below
    if all(p.device.type == "cpu" for group in groups for p in group["params"]):
        log.warning("optim: paging needs a GPU; the optimizer runs without it")
    return optimizer  # type: ignore[no-any-return]


def _can_fuse(groups: Groups) -> bool:
    fusable = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return all(p.device.type in ("cpu", "cuda") and p.dtype in fusable for g in groups for p in g["params"])
