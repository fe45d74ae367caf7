"""How much of a sweep's differences each varied key explains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmft.reports.numbers import number_in

_MOST_LEVELS = 4  # into which the values of a key are put that was sampled from a range
_FEWEST_RUNS = 4


def explained(settings: Sequence[str], values: Sequence[float]) -> float | None:
    """The share of the variance of a metric that a key explains by itself: adjusted R squared of a one-way analysis.

    Adjusted for the number of levels, so that a key without an effect has about 0 and not a share by chance. Numbers
    that hardly repeat, as from random search, count as 4 levels of about as many runs each.

    Args:
        settings: of the key, by run.
        values: of the metric, by run.

    Returns:
        None if there are too few runs, the key does not vary among them, or the metric does not.
    """
    levels, found = np.array(_levels(settings)), np.asarray(values, dtype=np.float64)
    count, kinds = len(found), len(set(levels.tolist()))
    if count < _FEWEST_RUNS or not 1 < kinds < count or not found.var():
        return None
    within = sum(found[levels == level].var() * (levels == level).sum() for level in set(levels.tolist()))
    return max(1 - float(within / (count - kinds)) / float(found.var(ddof=1)), 0.0)


def _levels(settings: Sequence[str]) -> list[int]:
    """A level for each setting: its own, or the quarter of a sampled number."""
    different = list(dict.fromkeys(settings))
    if 2 * len(different) <= len(settings) or len(different) <= _MOST_LEVELS or None in map(number_in, different):
        return [different.index(one) for one in settings]
    places = np.argsort(np.argsort([float(one) for one in settings], kind="stable"), kind="stable")
    return [int(place) * _MOST_LEVELS // len(settings) for place in places]
