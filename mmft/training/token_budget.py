"""Micro-batches of at most so many tokens, instead of so many rows: `data.micro_batch_tokens`.

The rows of a logical batch are computed by length, the longest first, so that a micro-batch holds rows of like length.
Which rows share a micro-batch changes neither loss nor gradient, but dropout, whose seed is the micro-batch's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmft.batch import Batch, RowsAtOnce
from mmft.models.language.generative_model import GenerativeModel
from mmft.models.vision_language_model import VisionLanguageModel


def divided(batch: Batch, rows: int | None, tokens: int | None, model: VisionLanguageModel) -> tuple[Batch, RowsAtOnce]:
    """How many rows each micro-batch has, and the batch; its longest rows come first if tokens are limited.

    Args:
        batch: a rank's share of a logical batch.
        rows: computed at once; None for all.
        tokens: computed at once, instead of rows; None for any number.
        model: a generative one if tokens are limited.
    """
    if tokens is None:
        return batch, rows
    assert isinstance(model, GenerativeModel)
    lengths: list[int] = model.sequence_lengths(batch).tolist()
    order = by_length(lengths)
    sizes = rows_within(tokens, [lengths[row] for row in order], model.text_encoder.packs)
    return batch.take(torch.tensor(order, dtype=torch.int64, device=batch.row.device)), sizes


def by_length(lengths: Sequence[int]) -> list[int]:
    """The rows, the longest first; rows of one length stay in order."""
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])


def rows_within(tokens: int, lengths: Sequence[int], packed: bool) -> list[int]:
    """How many rows each micro-batch has, at least one.

    >>> rows_within(8, [5, 4, 2, 2], packed=False), rows_within(8, [5, 4, 2, 2], packed=True)
    ([1, 2, 1], [1, 3])

    Args:
        tokens: that a micro-batch holds at most, if it has several rows.
        lengths: tokens of each row, in order.
        packed: whether rows are packed; else each takes as many tokens as the longest beside it.
    """
    sizes: list[int] = []
    rows = longest = total = 0
    for length in lengths:
        longest, total = max(longest, length), total + length
        if rows and (total if packed else (rows + 1) * longest) > tokens:
            sizes.append(rows)
            rows, longest, total = 0, length, length
        rows += 1
    return [*sizes, rows] if rows else sizes
