"""Facts about metrics: which are better when lower, in how many bins. Imports little: listings of runs use it, too."""

from __future__ import annotations

from collections.abc import Collection, Mapping

CALIBRATION_BINS = 15
"""Bins of the expected calibration error, as in Guo et al. 2017, arXiv 1706.04599."""
_LOWER = frozenset({"loss", "rmse", "mae", "median_rank", "hamming_loss", "ece", "perplexity"})


def lower_is_better(name: str, minimised: Collection[str] = ()) -> bool:
    """Whether a metric is better when lower, by its name with the split (`val/loss`) or without.

    Args:
        name: the metric's.
        minimised: of a user's task (`Task.minimised`), which its runs have in summary.json.
    """
    parts = name.split("/")
    return parts[-1] in _LOWER or parts[-1] in minimised or "loss" in parts[:-1]  # one of a loss's terms


def rank(metrics: Mapping[str, float], monitor: str, minimised: bool) -> tuple[float, float]:
    """What validations are sorted by, the best first: the metric, and the loss while all that is written is wrong.

    A text is right for the first time after many steps, until when exact match, CIDEr or BLEU are 0. Of other equal
    values the loss decides nothing.

    >>> found = [{"cider": 0.0, "loss": 3.0}, {"cider": 0.0, "loss": 2.0}, {"cider": 0.1, "loss": 4.0}]
    >>> [one["loss"] for one in sorted(found, key=lambda one: rank(one, "cider", minimised=False))]
    [4.0, 2.0, 3.0]
    """
    value, loss = metrics[monitor], metrics["loss"]
    undecided = value == 0 and not minimised
    return value if minimised else -value, (loss if loss == loss else float("inf")) if undecided else 0.0
