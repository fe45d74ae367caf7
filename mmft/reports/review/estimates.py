"""Shares of all rows, estimated from a stratified sample of them, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_Z = 1.959964  # of a two-sided 95 % interval of the normal distribution


class Stratum(NamedTuple):
    """Some of the rows of a stratum.

    Attributes:
        size: rows in it.
        values: of the sampled ones, 0 or 1.
        weights: rows that each of these stands for; only their proportions count.
    """

    size: int
    values: Sequence[float]
    weights: Sequence[float]


class Estimate(NamedTuple):
    """A share, its 95 % interval, and the number of rows that it was estimated from."""

    share: float
    low: float
    high: float
    rows: int

    def __str__(self) -> str:
        return f"{self.share:.4f} (95 % interval {self.low:.4f} to {self.high:.4f}, {self.rows:,} rows)"


def estimate(strata: Sequence[Stratum]) -> Estimate | None:
    """The share of all rows whose value is 1; None if a stratum has no sampled row.

    Strata count by their sizes, rows within a stratum by their weights. The interval joins those of
    the strata by Wilson (MOVER; Zou and Donner 2008): with one stratum it is Wilson's, equal values in a stratum do not
    make it too narrow, and it shrinks to a point as all rows are sampled.
    """
    strata = [one for one in strata if one.size]
    if not strata or not all(one.values for one in strata):
        return None
    total = sum(one.size for one in strata)
    share, below, above = 0.0, 0.0, 0.0
    for one in strata:
        part = float(np.average(one.values, weights=one.weights))
        low, high = wilson(part, _independent(one))
        weight = one.size / total
        share += weight * part
        below += (weight * (part - low)) ** 2
        above += (weight * (high - part)) ** 2
    rows = sum(len(one.values) for one in strata)
    return Estimate(share, max(share - math.sqrt(below), 0.0), min(share + math.sqrt(above), 1.0), rows)


def _independent(one: Stratum) -> float:
    """Rows drawn with replacement and equal weights that would tell as much (Kish 1965)."""
    weights = np.asarray(one.weights, dtype=np.float64)
    rows = float(weights.sum() ** 2 / (weights**2).sum())
    return rows * (one.size - 1) / (one.size - len(one.values)) if len(one.values) < one.size else math.inf


def wilson(share: float, rows: float) -> tuple[float, float]:
    """The Wilson score interval of a share among so many independent rows."""
    if math.isinf(rows):
        return share, share
    squared = _Z**2 / rows
    middle = (share + squared / 2) / (1 + squared)
    half = _Z / (1 + squared) * math.sqrt(share * (1 - share) / rows + squared / (4 * rows))
    return max(middle - half, 0.0), min(middle + half, 1.0)
