"""Metrics of multi-label classification, over all labels and per label.

Legend: B batch, R rows, C labels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MultilabelAUROC,
    MultilabelAveragePrecision,
    MultilabelExactMatch,
    MultilabelF1Score,
    MultilabelHammingDistance,
    MultilabelPrecision,
    MultilabelRecall,
)

HEADER = ["label", "support", "threshold", "average_precision", "precision", "recall", "f1"]
"""Header of the table of labels."""


def label_metrics(labels: int) -> MetricCollection:
    """mAP, AUROC; precision, recall and F1 (micro and macro), exact match, Hamming loss.

    All are updated with probabilities (B, C), shifted so that each label's threshold is 0.5, and int64 targets (B, C).

    Args:
        labels: C, at least 2.
    """
    collection: dict[str, Any] = {
        "map": MultilabelAveragePrecision(labels, average=None),
        "auroc": MultilabelAUROC(labels, average=None),
    }
    for average in ("micro", "macro"):
        collection[f"precision_{average}"] = MultilabelPrecision(labels, average=average)
        collection[f"recall_{average}"] = MultilabelRecall(labels, average=average)
        collection[f"f1_{average}"] = MultilabelF1Score(labels, average=average)
    collection["exact_match"] = MultilabelExactMatch(labels)
    collection["hamming_loss"] = MultilabelHammingDistance(labels)
    return MetricCollection(collection)


class Measured(NamedTuple):
    """Computed values of `label_metrics`.

    Attributes:
        scalars: one number each; `map` and `auroc` are means over the labels for which they are defined.
        average_precision: (C,), nan if no row has the label.
        support: (C,) rows with the label.
        true_positives: (C,).
        false_positives: (C,).
    """

    scalars: dict[str, float]
    average_precision: Tensor
    support: Tensor
    true_positives: Tensor
    false_positives: Tensor

    @classmethod
    def of(cls, metrics: MetricCollection) -> Measured:
        """Computes them."""
        with warnings.catch_warnings():  # about labels that no row or every row has: skipped below
            warnings.filterwarnings("ignore", "(No (posi|nega)tive samples|Average precision score)", UserWarning)
            computed: dict[str, Tensor] = metrics.compute()
        counts: Any = metrics["f1_macro"]  # its state holds the counts of each label
        support = counts.tp + counts.fn
        some = support > 0
        ap, auroc = computed.pop("map"), computed.pop("auroc")
        scalars = {
            "map": float(ap[some].mean()),
            "auroc": float(auroc[some & (counts.fp + counts.tn > 0)].mean()),
            **{name: float(value) for name, value in computed.items()},
        }
        return cls(scalars, torch.where(some, ap.double(), math.nan), support, counts.tp, counts.fp)

    def table(self, labels: Sequence[str], thresholds: Sequence[float]) -> list[list[Any]]:
        """One line per label after `HEADER`; nan for undefined values."""
        right = self.true_positives.double()
        found = right + self.false_positives
        each = (self.average_precision, right / found, right / self.support, 2 * right / (found + self.support))
        columns = (values.tolist() for values in each)
        return [HEADER, *([*line] for line in zip(labels, self.support.tolist(), thresholds, *columns, strict=True))]
