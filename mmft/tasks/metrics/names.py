"""Which metrics are better when lower. Imports nothing, because listings of runs use it too."""

from __future__ import annotations

_LOWER = frozenset({"loss", "rmse", "mae", "median_rank", "hamming_loss", "ece", "perplexity"})


def lower_is_better(name: str) -> bool:
    """Whether a metric is better when lower, by its name with the split (`val/loss`) or without."""
    parts = name.split("/")
    return parts[-1] in _LOWER or "loss" in parts[:-1]  # one of a loss's terms
