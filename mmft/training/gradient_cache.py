"""One optimizer step of a pairwise loss: over all pairs of the logical batch, in the memory of a micro-batch.

Gradient caching (Gao et al. 2021, arXiv 2101.06983): every micro-batch is fused without a graph, head and loss run once
on the features of all micro-batches and ranks, and every micro-batch is fused again with the same dropout to
backpropagate its features' gradient. The head gets its gradient once, from the loss itself. The last micro-batch keeps
the graph of its first pass, so a batch of one micro-batch is computed once. Wholly frozen encoders run once: what they
give is kept with the rows for the second pass.

Legend: B rows of this rank's share, R rows of the logical batch, F width of cached features, K terms of the loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmft.batch import Batch, Fused
from mmft.models.recompute import statistics_kept
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.accumulation import Backward, divisor_of
from mmft.training.objective import Objective
from mmft.training.parallel.collectives import gathered_rows, summed


def accumulate_pairs(
    batch: Batch,
    micro_batch_size: int | None,
    total_weight: Tensor,
    model: VisionLanguageModel,
    objective: Objective,
    weigh: Callable[[Tensor], Tensor],
    backward: Backward,
    before_micro_batch: Callable[[int], None],
) -> Tensor:
    """Adds the gradient of this rank's share of a logical batch to the parameters' `.grad`.

    Args:
        batch: this rank's share, B rows, possibly none.
        micro_batch_size: rows fused at once; None for all.
        total_weight: (K,) float64, weight of the logical batch over all ranks, per term of the loss.
        model: in train mode.
        objective: the terms of the loss.
        weigh: (K,) mean terms -> () loss, times the loss scale if any, which also scales the micro-batches' gradients.
        backward: runs the backward pass of a loss.
        before_micro_batch: called with the micro-batch's index before each of its passes; seeds dropout.

    Returns:
        (K,) this share's part of the logical batch's mean losses, detached.
    """
    with torch.no_grad():
        parts = [model.with_frozen(part) for part in batch.split(micro_batch_size)]
    pooled = model.auxiliary is not None or objective.distillation is not None
    features, kept = _fuse(parts, model, pooled, before_micro_batch)
    if features is None:
        features = next(model.head.parameters()).new_zeros(0, sum(_widths(model, pooled)))
    everyone, rows, own = _gathered(features, batch)
    everyone.requires_grad_()
    sums = objective.pairwise_sums(model.outputs(_taken_apart(model, pooled, everyone)), rows, own, batch)
    losses = sums / divisor_of(total_weight).to(sums)
    backward(weigh(losses))
    assert everyone.grad is not None
    gradients = list(summed(everyone.grad)[own].split(micro_batch_size or max(1, len(batch))))
    if kept is not None:
        backward(_with_gradient(kept, gradients.pop()))
    with statistics_kept(model):
        for index, gradient in enumerate(gradients[: len(parts) - 1]):
            before_micro_batch(index)
            backward(_with_gradient(_fused(model, pooled, parts[index]), gradient))
    return losses.detach()


def _gathered(features: Tensor, batch: Batch) -> tuple[Tensor, Batch, slice]:
    """All ranks' features (R, F), what the losses need of those rows, and the slice that is this rank's."""
    assert batch.target is not None
    known = torch.stack([batch.row, batch.image_present.long(), batch.text_present.long()], dim=1)
    if batch.identity is not None:
        known = torch.cat([known, batch.identity], dim=1)
    (everyone, target, weight, known), own = gathered_rows(features, batch.target, batch.weight, known)  # (R, ...)
    row, image, text = known[:, :3].unbind(1)
    identity = None if batch.identity is None else known[:, 3:]
    return everyone, Batch(None, None, None, image.bool(), text.bool(), row, weight, target, identity), own


def _fuse(
    parts: list[Batch], model: VisionLanguageModel, pooled: bool, before_micro_batch: Callable[[int], None]
) -> tuple[Tensor | None, Tensor | None]:
    """Features (B, F) without a graph, and the last micro-batch's with one; None without rows."""
    found: list[Tensor] = []
    for index, part in enumerate(parts):
        before_micro_batch(index)
        with torch.set_grad_enabled(index == len(parts) - 1):
            found.append(_fused(model, pooled, part))
    return (torch.cat([part.detach() for part in found]), found[-1]) if found else (None, None)


def _fused(model: VisionLanguageModel, pooled: bool, rows: Batch) -> Tensor:
    """(b, F), see `_widths`. Resets autocast's cache: weights cast in a pass without a graph have none."""
    torch.clear_autocast_cache()
    fused = model.fuse(rows)
    return torch.cat(fused, dim=-1) if pooled else fused.features


def _widths(model: VisionLanguageModel, pooled: bool) -> tuple[int, ...]:
    """Widths of the cached features: the fused ones, and both encoders' pooled ones if something reads them."""
    encoders = (model.image_encoder.widths.pooled, model.text_encoder.widths.pooled)
    return (model.fusion.width, *encoders) if pooled else (model.fusion.width,)


def _taken_apart(model: VisionLanguageModel, pooled: bool, kept: Tensor) -> Fused:
    """The inverse of `_fused`."""
    parts = kept.split(_widths(model, pooled), dim=-1)
    return Fused(*parts) if len(parts) > 1 else Fused(kept, kept, kept)


def _with_gradient(features: Tensor, gradient: Tensor) -> Tensor:
    """() whose gradient with respect to `features` (b, F) is `gradient` (b, F)."""
    return (features * gradient.to(features)).sum()
