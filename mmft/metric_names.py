"""Which metrics are better when lower. Imports nothing, since listings of runs ask too."""

from __future__ import annotations

_LOWER = frozenset({"loss", "rmse", "mae", "median_rank", "hamming_loss", "ece"})


def lower_is_better(name: str) -> bool:
    """Of a metric's name, with its split (`val/loss`) or without."""
    return name.rpartition("/")[2] in _LOWER
