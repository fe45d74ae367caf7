"""Tunes the probability threshold above which a label is predicted, so that it maximises a measure on given rows.

Candidates lie halfway between neighbouring probabilities, and above and below all of them, so that no row lies on a
threshold. Ties go to the threshold nearest to 0.5.

Legend: R rows, K thresholds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Counts(NamedTuple):
    """Confusion counts of K thresholds; each (K,) float64, or () for a single threshold."""

    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor
    true_negatives: Tensor


Measure = Callable[[Counts], Tensor]
"""Counts -> (K,), higher is better."""


def f1(counts: Counts) -> Tensor:
    """F1 of the label; 0 with neither positive rows nor positive predictions."""
    return _share(2 * counts.true_positives, counts.false_positives + counts.false_negatives)


def f1_macro(counts: Counts) -> Tensor:
    """The mean of the label's F1 and that of its absence."""
    return (f1(counts) + _share(2 * counts.true_negatives, counts.false_positives + counts.false_negatives)) / 2


def balanced_accuracy(counts: Counts) -> Tensor:
    """The mean of the recalls of rows with and without the label."""
    with_it = _share(counts.true_positives, counts.false_negatives)
    return (with_it + _share(counts.true_negatives, counts.false_positives)) / 2


MEASURES: dict[str, Measure] = {"f1": f1, "f1_macro": f1_macro, "balanced_accuracy": balanced_accuracy}


class Best(NamedTuple):
    """A threshold, and the measure at 0.5 (before) and at the threshold (after)."""

    threshold: float
    before: float
    after: float


def best_threshold(probabilities: Tensor, target: Tensor, measure: Measure) -> Best:
    """The threshold that maximises `measure`.

    Args:
        probabilities: (R,) float64 of the label, R at least 1; the label is predicted above the threshold.
        target: (R,) bool, True = the row has the label.
        measure: one of `MEASURES`.
    """
    ordered, places = probabilities.sort(descending=True)
    right = target[places].double().cumsum(0)  # (R,) true positives among the first 1, 2, ...
    number = torch.arange(1, len(ordered) + 1, dtype=torch.float64)
    ends = torch.cat([ordered[1:] < ordered[:-1], torch.ones(1, dtype=torch.bool)])  # last of each run of ties
    below = torch.cat([ordered[1:], torch.zeros(1, dtype=torch.float64)])
    thresholds = torch.cat([(1 + ordered[:1]) / 2, ((ordered + below) / 2)[ends]])  # (K,) from none to all predicted
    found, true = (torch.cat([torch.zeros(1, dtype=torch.float64), values[ends]]) for values in (number, right))
    values = measure(_counts(true, found, right[-1], len(ordered)))
    before = measure(counts_above(probabilities, target, 0.5))
    if before >= values.max():
        return Best(0.5, float(before), float(before))
    best = torch.where(values == values.max(), (thresholds - 0.5).abs(), torch.inf).argmin()
    return Best(float(thresholds[best]), float(before), float(values[best]))


def tuned(probabilities: Tensor, target: Tensor, measure: str, label: str) -> tuple[float, dict[str, Any]]:
    """The tuned threshold of one label, and its entries in the run's summary.

    Args:
        probabilities: (R,) float64 of the label, on held-out rows.
        target: (R,) bool, True = the row has the label; if all or none do, the threshold stays 0.5, with a warning.
        measure: name of one of `MEASURES`.
        label: name of the label.
    """
    if target.all() or not target.any():
        log.warning("task.threshold_metric: all validation rows are of one class; the threshold stays 0.5")
        return 0.5, {}
    best = best_threshold(probabilities, target, MEASURES[measure])
    log.info(
        "%r is predicted above a probability of %.3f, tuned on %d validation rows: %s %.4f, at 0.5 it was %.4f",
        *(label, best.threshold, len(target), measure, best.after, best.before),
    )
    return best.threshold, {"threshold": best.threshold, measure: {"before": best.before, "after": best.after}}


def counts_above(probabilities: Tensor, target: Tensor, threshold: float) -> Counts:
    """The confusion counts () of one threshold, from probabilities (R,) and targets (R,) bool."""
    found = probabilities > threshold
    positive = target.double().sum()
    return _counts((found & target).double().sum(), found.double().sum(), positive, len(target))


def _counts(true: Tensor, found: Tensor, positive: Tensor, rows: int) -> Counts:
    missed = positive - true
    return Counts(true, found - true, missed, rows - found - missed)


def _share(part: Tensor, rest: Tensor) -> Tensor:
    """Returns part / (part + rest), 0 if both are 0."""
    return part / (part + rest).clamp_min(1)
