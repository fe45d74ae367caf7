"""Losses over all pairs of a logical batch, computed in chunks so that memory is not quadratic in the batch size.

Legend: R rows of the logical batch, O rows of this rank, c rows of a chunk, P width of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 2**20
"""Logits per chunk: 4 MiB in float32."""

OfLogits = Callable[[Tensor, slice], Tensor]
"""Logits (c, R) of the chunk's rows against all rows -> () the sum of the chunk's losses."""


class Rows(NamedTuple):
    """Identities and weights of the rows of a batch.

    Rows i and j are a positive pair, in both directions, if i is j or one of their identities is equal (-1 equals
    nothing). A row of weight 0 is ignored, both as a positive and as a negative.
    """

    identity: Tensor  # (R, 3) int64: image, text, group
    weight: Tensor  # (R,)

    def positives(self, chunk: slice) -> Tensor:
        """(c, R) bool, True = a positive pair."""
        one, all_ = self.identity[chunk].unbind(1), self.identity.unbind(1)
        found = self._same(chunk)
        for own, other in zip(one, all_, strict=True):
            found = found | ((own[:, None] == other) & (own[:, None] >= 0))
        return found & self.takes_part(chunk)

    def takes_part(self, chunk: slice) -> Tensor:
        """(c, R) bool, True = the pair counts; a row's own pair always does, so that no row is empty."""
        return (self.weight > 0) | self._same(chunk)

    def _same(self, chunk: slice) -> Tensor:  # (c, R) bool, True = the same row
        numbers = torch.arange(len(self.weight), device=self.weight.device)
        return numbers[chunk, None] == numbers


def info_nce_sum(image: Tensor, text: Tensor, rows: Rows, own: slice) -> Tensor:
    """Symmetric InfoNCE (CLIP, van den Oord et al. 2018, arXiv 1807.03748), with any number of positives per row.

    In each direction, a row's loss is the cross-entropy against all rows of the other modality, with the target spread
    evenly over its positives (Khosla et al. 2020, arXiv 2004.11362, their L_out). Both directions are averaged.

    Args:
        image: (R, P) vectors whose inner products with those of `text` are the logits.
        text: (R, P).
        rows: identities and weights of the same R rows.
        own: the O of R rows whose losses are summed.

    Returns:
        () the sum of weight times loss. Summed over ranks and divided by the sum of all R weights: the batch's loss.
    """

    def of_logits(logits: Tensor, chunk: slice) -> Tensor:
        positive = rows.positives(chunk)  # (c, R)
        told = logits.masked_fill(~positive, 0).sum(1) / positive.sum(1)  # (c,) mean logit of the positives
        among = logits.masked_fill(~rows.takes_part(chunk), -torch.inf).logsumexp(1)  # (c,)
        return ((among - told) * rows.weight[chunk].to(logits)).sum()

    return (_in_chunks(image, text, own, of_logits) + _in_chunks(text, image, own, of_logits)) / 2  # both ways


def sigmoid_sum(image: Tensor, text: Tensor, rows: Rows, own: slice) -> Tensor:
    """SigLIP's loss (Zhai et al. 2023, arXiv 2303.15343): binary classification of each pair as positive or negative.

    A pair is weighted by the mean of its rows' weights. Arguments and result as for `info_nce_sum`.
    """

    def of_logits(logits: Tensor, chunk: slice) -> Tensor:
        losses = functional.softplus(torch.where(rows.positives(chunk), -logits, logits))  # (c, R)
        weight = rows.weight.to(logits)
        weights = (weight[chunk, None] + weight) / 2 * ((weight[chunk, None] > 0) & (weight > 0))  # (c, R)
        return (losses * weights).sum()

    return _in_chunks(image, text, own, of_logits)  # once: every pair is in one row of images


def _in_chunks(query: Tensor, keys: Tensor, own: slice, of_logits: OfLogits) -> Tensor:
    """() the sum of `of_logits` over the rows `own` of `query` (R, P), in chunks, each against all `keys` (R, P)."""
    total: Tensor = _InChunks.apply(query, keys, own, of_logits)
    return total


class _InChunks(torch.autograd.Function):
    """Computes each chunk's gradient in the forward pass, right after its logits, and frees the logits.

    The loss is a scalar, so the backward pass only scales these gradients by the upstream gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, own: slice, of_logits: OfLogits) -> Tensor:
        """As `_in_chunks`."""
        first, last, _ = own.indices(len(query))
        size = max(1, CHUNK // max(1, len(keys)))
        wanted = any(ctx.needs_input_grad)
        of_query, of_keys = (torch.zeros_like(x) if wanted else x for x in (query, keys))
        total = query.new_zeros(())
        for start in range(first, last, size):
            chunk = slice(start, min(start + size, last))
            logits = (query[chunk] @ keys.T).requires_grad_(wanted)  # (c, R)
            with torch.set_grad_enabled(wanted):
                loss = of_logits(logits, chunk)
            if wanted:
                (gradient,) = torch.autograd.grad(loss, logits)
                torch.mm(gradient, keys, out=of_query[chunk])  # (c, R) @ (R, P)
                of_keys.addmm_(gradient.T, query[chunk])  # (R, c) @ (c, P), summed over chunks
            total += loss.detach()
        ctx.save_for_backward(of_query, of_keys)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """The gradients of `query` and `keys`."""
        of_query, of_keys = ctx.saved_tensors
        return of_query * upstream[0], of_keys * upstream[0], None, None
