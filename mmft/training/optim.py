"""Optimizers over the groups of a tuning plan."""

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
    """AdamW with both moments in 8 bit, scaled in blocks of 256 (Dettmers et al. 2022, arXiv 2110.02861).

    2 bytes of state per trained value in the place of 8. A parameter of fewer than 4,096 values (norms, biases, LoRA's
    matrices on a small encoder) keeps 32 bit, where the saving is nothing and the error is not: bitsandbytes'
    `min_8bit_size`.
    """
    return _of_bitsandbytes("AdamW8bit", groups, beta1, beta2, eps)


def paged_adamw(groups: Groups, beta1: float, beta2: float, eps: float) -> Optimizer:
    """AdamW whose moments are in pages, which a full GPU moves to the CPU's memory (as in arXiv 2305.14314).

    They are in 32 bit; those of a parameter of fewer than 100,000 values stay on the GPU.
    """
    return _of_bitsandbytes("PagedAdamW", groups, beta1, beta2, eps)


def paged_adamw_8bit(groups: Groups, beta1: float, beta2: float, eps: float) -> Optimizer:
    """`adamw_8bit` in the pages of `paged_adamw`; small parameters as there."""
    return _of_bitsandbytes("PagedAdamW8bit", groups, beta1, beta2, eps)


def _of_bitsandbytes(name: str, groups: Groups, beta1: float, beta2: float, eps: float) -> Optimizer:
    from bitsandbytes import optim  # nobody else needs it, and it takes a second

    kind = getattr(optim, name)
    if not name.startswith("Paged"):
        return kind(groups, betas=(beta1, beta2), eps=eps)  # type: ignore[no-any-return]

    class Paged(kind):  # type: ignore[misc, valid-type]
        """Pages its moments after a resume too; bitsandbytes' own leaves what a checkpoint brought on the GPU."""

        def to_gpu(self) -> None:
            """Is called before the first step, when all moments that there are were loaded."""
            for parameter, state in self.state.items():
                for moment in ("state1", "state2"):
                    loaded = state[moment]
                    state[moment] = self.get_state_buffer(parameter, dtype=loaded.dtype).copy_(loaded)
            super().to_gpu()

    optimizer: Any = Paged(groups, betas=(beta1, beta2), eps=eps)
    optimizer._cpu_paged_warned = True  # it is said here, without a place in bitsandbytes
    if all(p.device.type == "cpu" for group in groups for p in group["params"]):
        log.warning("optim: on a CPU there is nothing to page; the optimizer is as without pages")
    return optimizer  # type: ignore[no-any-return]


def _can_fuse(groups: Groups) -> bool:
    fusable = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return all(p.device.type in ("cpu", "cuda") and p.dtype in fusable for g in groups for p in g["params"])
