"""Metrics of classification.

Legend: B batch, C classes, K pairs of classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassAveragePrecision

from mmft.tasks.calibration import CalibrationError

MOST_IN_A_MATRIX = 1000
"""Largest number of classes with a full confusion matrix; above it only the pairs that occur are listed."""

_CONFUSION = "confusion_matrix"
_RANKED = ("auroc", "average_precision")


class Confusions(Metric):
    """A sparse confusion matrix: the pairs of true and predicted class that occur, with their counts.

    A dense matrix of 5,000 classes takes 200 MB, and torchmetrics' precision, recall and F1 build one per batch.
    """

    pairs: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("pairs", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds probabilities (B, C) and targets (B,)."""
        self.pairs.append(target * self.classes + preds.argmax(1))  # (B,) pair number

    def compute(self) -> Tensor:
        """(K, 3) int64: true class, predicted class, number of rows; sorted by class."""
        pairs, rows = torch.cat(self.pairs).unique(return_counts=True)
        return torch.stack([pairs // self.classes, pairs % self.classes, rows], dim=1)


def class_metrics(classes: int, calibration: bool) -> MetricCollection:
    """The metrics that `measured` computes: accuracy, AUROC, average precision, confusions.

    Args:
        classes: C, at least 2.
        calibration: whether to add the expected calibration error.
    """
    collection: dict[str, Any] = {"accuracy": MulticlassAccuracy(classes, average="micro")}
    collection["auroc"] = MulticlassAUROC(classes, average=None)
    collection["average_precision"] = MulticlassAveragePrecision(classes, average=None)
    collection[_CONFUSION] = Confusions(classes)
    if calibration:
        collection["ece"] = CalibrationError(classes)
    return MetricCollection(collection)


class Counts(NamedTuple):
    """Row counts by class."""

    right: Tensor  # (C,) float64 true positives
    true: Tensor  # (C,) float64 rows of the class
    predicted: Tensor  # (C,) float64 rows predicted as the class

    @classmethod
    def of(cls, pairs: Tensor, classes: int) -> Counts:
        """From the (K, 3) of `Confusions`."""
        true, predicted, rows = pairs.T
        none, right = rows.new_zeros(classes).double(), true == predicted
        given = ((true[right], rows[right]), (true, rows), (predicted, rows))
        return cls(*(none.index_add(0, where, count.double()) for where, count in given))

    def by_class(self) -> dict[str, Tensor]:
        """(C,) precision, recall and F1; 0 where the divisor is 0."""
        parts = {"precision": self.predicted, "recall": self.true, "f1": (self.predicted + self.true) / 2}
        return {name: self.right / whole.clamp_min(0.5) for name, whole in parts.items()}

    def scalars(self) -> dict[str, float]:
        """Macro (over classes with true or predicted rows) and weighted (by rows) means of `by_class`.

        With two classes, also the values of the second class.
        """
        found, some = {}, self.true + self.predicted > 0
        for name, values in self.by_class().items():
            found[f"{name}_macro"] = float(values[some].mean())
            found[f"{name}_weighted"] = float((values * self.true).sum() / self.true.sum())
            if len(values) == 2:
                found[name] = float(values[1])
        return found


def scalar_names(metrics: MetricCollection) -> list[str]:
    """Names of the scalars that `measured` returns for `class_metrics`."""
    confusions = cast("Confusions", metrics[_CONFUSION])
    nothing = Counts.of(torch.zeros(1, 3, dtype=torch.int64), confusions.classes)
    return [*nothing.scalars(), *(str(name) for name in metrics if name != _CONFUSION)]


def measured(metrics: MetricCollection) -> tuple[dict[str, float], Tensor]:
    """All scalars of `class_metrics`, including precision, recall and F1, and (C,) the rows of each class."""
    with warnings.catch_warnings():  # about missing classes, which `_ranked` skips
        warnings.filterwarnings("ignore", "(No (posi|nega)tive samples|Average precision score)", UserWarning)
        computed: dict[str, Tensor] = metrics.compute()
    counts = Counts.of(computed.pop(_CONFUSION), cast("Confusions", metrics[_CONFUSION]).classes)
    ranked = {name: _ranked(computed.pop(name), counts.true) for name in _RANKED}
    return counts.scalars() | {name: float(value) for name, value in computed.items()} | ranked, counts.true


def _ranked(values: Tensor, counts: Tensor) -> float:
    """A per-class ranking metric (C,) as one number; `counts` (C,) are the rows of each class."""
    told = (counts > 0) & (counts < counts.sum())  # ranking needs rows inside and outside the class
    chosen = values[1:] if len(values) == 2 else values
    return float(chosen[told[-len(chosen) :]].mean())


def confusion_tables(metrics: MetricCollection, labels: Sequence[str]) -> dict[str, list[list[Any]]]:
    """The confusion matrix: one row per true label, one column per predicted label.

    With more than `MOST_IN_A_MATRIX` labels, `confusions` instead: one row per pair of labels that occurs.
    """
    pairs: list[list[int]] = metrics[_CONFUSION].compute().tolist()
    if len(labels) > MOST_IN_A_MATRIX:
        told = [[labels[true], labels[predicted], rows] for true, predicted, rows in pairs]
        return {"confusions": [["true", "predicted", "rows"], *told]}
    matrix = [[0] * len(labels) for _ in labels]
    for true, predicted, rows in pairs:
        matrix[true][predicted] = rows
    named = [[label, *row] for label, row in zip(labels, matrix, strict=True)]
    return {_CONFUSION: [["true / predicted", *labels], *named]}
