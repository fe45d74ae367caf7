"""Which metrics are better when lower. Imports nothing, since listings of runs ask too."""

from __future__ import annotations

_LOWER = frozenset({"loss", "rmse", "mae", "median_rank", "hamming_loss", "ece"})


def lower_is_better(name: str) -> bool:
    """Of a metric's name, with its split (`val/loss`) or without."""
    parts = name.split("/")
    return parts[-1] in _LOWER or "loss" in parts[:-1]  # one of a loss's terms
