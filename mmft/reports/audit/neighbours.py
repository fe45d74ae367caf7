"""Cosines of features: whitening, and nearest neighbours block by block, so that memory does not grow with R x R.

Legend: R rows, Q queries, D width, K neighbours.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 4096  # rows compared with as many others at once
_SHRINKAGE = 0.1


class Neighbours(NamedTuple):
    """The nearest rows of each query, nearest first."""

    cosine: Tensor  # (Q, K) float32, -inf where there are fewer than K
    at: Tensor  # (Q, K) int64 row, -1 where there are fewer than K


def whitened(features: Tensor) -> Tensor:
    """Features (R, D) -> (R, D) float32 of unit length, after subtracting the mean and whitening.

    Pretrained features share a few strong directions (style, length) that make all rows of a table look alike.
    Whitening weakens them (Jégou and Chum 2012, Negative evidences and co-occurrences in image retrieval). A tenth of
    the mean variance is added to the variance of each direction, so that noise is not amplified.
    """
    mean = features.double().mean(0)
    covariance = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for block in features.split(_BLOCK):
        centred = block.double() - mean
        covariance += centred.T @ centred / len(features)
    variances, directions = torch.linalg.eigh(covariance)
    added = _SHRINKAGE * variances.mean().clamp_min(1e-12)
    weights = directions / (variances.clamp_min(0) + added).sqrt()  # (D, D)
    blocks = [
        functional.normalize((block.double() - mean) @ weights, dim=1).float() for block in features.split(_BLOCK)
    ]
    return torch.cat(blocks)


def nearest(
    queries: Tensor,
    rows: Tensor,
    count: int,
    least: float = -math.inf,
    among: Literal["all", "others", "earlier"] = "all",
) -> Neighbours:
    """The nearest rows of each query, by cosine.

    Args:
        queries: (Q, D) of unit length.
        rows: (R, D) of unit length.
        count: K.
        least: rows with a smaller cosine are no neighbours.
        among: `all` rows; `others`: queries are the rows, and none is its own neighbour; `earlier`: nor is a later one.
    """
    cosine = torch.full((len(queries), count), -math.inf)
    at = torch.full((len(queries), count), -1)
    for first in range(0, len(queries), _BLOCK):
        mine = slice(first, first + _BLOCK)
        for begin in range(0, len(rows) if among == "all" else first + 1, _BLOCK):
            theirs = slice(begin, begin + _BLOCK)
            found = queries[mine] @ rows[theirs].T
            if among == "others" and begin < first:
                _keep_nearest(cosine[theirs], at[theirs], found.T, first, least)
            elif among == "others":
                found.fill_diagonal_(-math.inf)
            elif among == "earlier" and begin == first:
                found.masked_fill_(torch.ones_like(found, dtype=torch.bool).triu(), -math.inf)
            _keep_nearest(cosine[mine], at[mine], found, begin, least)
    return Neighbours(cosine, at)


def _keep_nearest(cosine: Tensor, at: Tensor, found: Tensor, begin: int, least: float) -> None:
    """Merges cosines (Q, r) with the rows from `begin` on into the nearest ones (Q, K) so far, in place."""
    nearer = found.amax(1)
    better = ((nearer > cosine[:, -1]) & (nearer >= least)).nonzero().squeeze(1)
    if not len(better):
        return
    values, columns = found[better].topk(min(cosine.shape[1], found.shape[1]), dim=1)
    columns = torch.where(values >= least, columns + begin, -1)
    values = values.masked_fill((values < least) | values.isneginf(), -math.inf)
    columns = columns.masked_fill(values.isneginf(), -1)
    both, kept = torch.cat([cosine[better], values], dim=1).topk(cosine.shape[1], dim=1)
    cosine[better] = both
    at[better] = torch.cat([at[better], columns], dim=1).gather(1, kept)
