"""Gradient checkpointing: a block's activations are freed and recomputed in the backward pass.

Chen et al. 2016 (arXiv 1604.06174), with torch's non-reentrant `checkpoint`. A block's class is replaced by a subclass,
which keeps names, state dicts, hooks, `isinstance` and copies intact, for timm and transformers alike.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmft.config.schema.model import ENCODERS
from mmft.models.layers import block_modules, mix_in
from mmft.models.vision_language_model import VisionLanguageModel

log = logging.getLogger(__name__)


class Recomputed:
    """Mixin for a block's class; no cost without gradients."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's own forward, recomputed with the same dropout for the backward pass."""
        forward = super().forward  # type: ignore[misc] # of the block's class
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)

        # Positional arguments only: `checkpoint` finds the GPUs whose generators it replays among these.
        def run(given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return forward(*given, **named)

        return checkpoint(run, args, kwargs, use_reentrant=False, context_fn=partial(_contexts, self))


def recompute_blocks(model: VisionLanguageModel) -> int:
    """Enables gradient checkpointing for every block of both encoders.

    Args:
        model: is changed in place; its parameters and their names are not.

    Returns:
        The number of blocks. A trained encoder without blocks is left unchanged, with a warning.
    """
    found = []
    for encoder in ENCODERS:
        blocks = block_modules(getattr(model, encoder).backbone)
        if not blocks and not getattr(model, encoder).frozen:
            log.warning("trainer.gradient_checkpointing: model.%s has no blocks to recompute", encoder)
        found += blocks
    for block in found:
        if not isinstance(block, Recomputed):
            mix_in(block, Recomputed)
    return len(found)


def _contexts(block: Any) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of the first and the second forward pass."""
    return nullcontext(), statistics_kept(block)


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Context in which BatchNorm does not update its running statistics: the first pass has counted the batch."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:  # keep the buffers: autograd must save the same tensors as in the first pass
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted
