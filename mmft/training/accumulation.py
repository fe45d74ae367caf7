"""The arithmetic of one optimizer step over a logical batch that is computed in micro-batches.

The summed row losses are divided by the weight of the whole logical batch (all ranks, real rows), so any split yields
the gradient of the undivided batch up to rounding (compare transformers #34191, where each part was divided by its own
count). Dropout is a pure function of (seed, step, rank, micro-batch), so a resumed run draws what the uninterrupted run
would have drawn, and no generator state is saved.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mmft.batch import Batch, RowsAtOnce

LossSums = Callable[[Batch], Tensor]
Backward = Callable[[Tensor], object]


def seed_dropout(seed: int, step: int, rank: int, micro_batch: int) -> None:
    """Seeds the generators of the CPU and the GPUs in use from the four numbers, by numpy's SeedSequence."""
    state = np.random.SeedSequence([seed, step, rank, micro_batch]).generate_state(1, np.uint64)[0]
    number = int(state >> np.uint64(1))
    # Not torch.manual_seed: without a GPU it formats a stack trace on each call, which takes milliseconds.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)


def accumulate(
    batch: Batch,
    micro_batch_size: RowsAtOnce,
    total_weight: Tensor,
    loss_sums: LossSums,
    weigh: Callable[[Tensor], Tensor],
    backward: Backward,
    before_micro_batch: Callable[[int], None],
    at_least: int = 0,
) -> Tensor:
    """Adds the gradient of this rank's share of a logical batch to the parameters' `.grad`.

    Args:
        batch: this rank's share, B rows, possibly none.
        micro_batch_size: rows computed at once, see `Batch.split`.
        total_weight: (K,) float64, weight of the logical batch over all ranks, per term of the loss.
        loss_sums: rows -> (K,) weighted sum of their losses, per term.
        weigh: (K,) mean terms -> () loss, times the loss scale if there is one.
        backward: runs the backward pass of a loss.
        before_micro_batch: called with the micro-batch's index; seeds dropout.
        at_least: minimum number of micro-batches; missing ones are an empty row of weight 0. Other ranks wait for them
            if weights are sharded.

    Returns:
        (K,) this share's part of the logical batch's mean losses, detached; 0 without rows.
    """
    divisor = divisor_of(total_weight)
    losses: Tensor | None = None
    micro_batches = list(batch.split(micro_batch_size))
    micro_batches += [_nothing(batch)] * (at_least - len(micro_batches))
    for index, micro_batch in enumerate(micro_batches):
        before_micro_batch(index)
        sums = loss_sums(micro_batch)
        parts = sums / divisor.to(sums)
        backward(weigh(parts))
        losses = parts.detach().to(divisor) if losses is None else losses + parts.detach()
    return torch.zeros_like(divisor) if losses is None else losses


def divisor_of(total_weight: Tensor) -> Tensor:
    """(K,) divisor of a logical batch's loss sums: their weight, or 1 if no row has one."""
    return torch.where(total_weight > 0, total_weight, torch.ones_like(total_weight))


def _nothing(batch: Batch) -> Batch:
    """One row without image, text or weight, with a target shaped like those of `batch`."""
    absent = batch.image_present.new_zeros(1)
    return Batch(
        pixel_values=None,
        input_ids=None,
        attention_mask=None,
        image_present=absent,
        text_present=absent,
        row=batch.row.new_zeros(1),
        weight=batch.weight.new_zeros(1),
        target=None if batch.target is None else batch.target.new_zeros((1, *batch.target.shape[1:])),
    )
