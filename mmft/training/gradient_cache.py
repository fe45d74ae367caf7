"""The step of a task over pairs: its loss is over all pairs of the logical batch, its memory that of a micro-batch.

Gradient caching (Gao et al. 2021, arXiv 2101.06983): every micro-batch is fused without a graph, the head and the loss
run once on what all of them and all ranks gave, and then every micro-batch is fused again, with the same dropout, for
the gradient that its features got. The head's parameters get theirs once, from the loss itself. The last micro-batch
keeps the graph of its first pass, so that a batch that is its only one is computed once.

Legend: B rows of this rank's share, R rows of the logical batch, F width of the fused features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmft.batch import Batch, Outputs
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.accumulation import Backward, divisor_of
from mmft.training.collectives import gathered_rows, summed

PairLossSum = Callable[[Outputs, Batch, slice], Tensor]


def accumulate_pairs(
    batch: Batch,
    micro_batch_size: int | None,
    total_weight: Tensor,
    model: VisionLanguageModel,
    pair_loss_sum: PairLossSum,
    backward: Backward,
    before_micro_batch: Callable[[int], None],
) -> Tensor:
    """Adds the gradient of this rank's share of a logical batch to the parameters' `.grad`.

    Args:
        batch: this rank's share, B rows, possibly none.
        micro_batch_size: rows fused at once; None: all.
        total_weight: () float64 the weight of the whole logical batch over all ranks.
        model: in train mode.
        pair_loss_sum: the task's.
        backward: runs the backward pass of a loss.
        before_micro_batch: called with the micro-batch's index before each of its passes; seeds dropout.

    Returns:
        () the share's part of the logical batch's mean loss, detached.
    """
    parts = list(batch.split(micro_batch_size))
    features, kept = _fuse(parts, model, before_micro_batch)
    if features is None:
        features = next(model.head.parameters()).new_zeros(0, model.fusion.width)
    assert batch.target is not None
    (everyone, target, weight, row), own = gathered_rows(features, batch.target, batch.weight, batch.row)  # (R, ...)
    there = torch.ones_like(row, dtype=torch.bool)
    rows = Batch(None, None, None, there, there, row, weight, target)
    everyone.requires_grad_()
    outputs = Outputs(model.head(everyone), everyone, everyone)
    loss = pair_loss_sum(outputs, rows, own) / divisor_of(total_weight).to(everyone)
    backward(loss)
    assert everyone.grad is not None
    gradients = list(summed(everyone.grad)[own].split(micro_batch_size or max(1, len(batch))))
    if kept is not None:
        backward(_with_gradient(kept, gradients.pop()))
    with _statistics_kept(model):
        for index, gradient in enumerate(gradients[: len(parts) - 1]):
            before_micro_batch(index)
            backward(_with_gradient(_fused(model, parts[index]), gradient))
    return loss.detach()


def _fuse(
    parts: list[Batch], model: VisionLanguageModel, before_micro_batch: Callable[[int], None]
) -> tuple[Tensor | None, Tensor | None]:
    """Features (B, F) without a graph, and those of the last micro-batch with one; None, None where there is no row."""
    found: list[Tensor] = []
    for index, part in enumerate(parts):
        before_micro_batch(index)
        with torch.set_grad_enabled(index == len(parts) - 1):
            found.append(_fused(model, part))
    return (torch.cat([part.detach() for part in found]), found[-1]) if found else (None, None)


def _fused(model: VisionLanguageModel, rows: Batch) -> Tensor:
    """Features (b, F). Autocast's weights are cast anew: those that it keeps from a pass without a graph have none."""
    torch.clear_autocast_cache()
    return model.fuse(rows).features


def _with_gradient(features: Tensor, gradient: Tensor) -> Tensor:
    """() of which the gradient with respect to `features` (b, F) is `gradient` (b, F)."""
    return (features * gradient.to(features)).sum()


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Running statistics have seen every row once already; a second pass leaves them as they are."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    kept = [(buffer, buffer.clone()) for module in norms for buffer in module.buffers()]
    yield
    for buffer, value in kept:
        buffer.copy_(value)
