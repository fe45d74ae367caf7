"""Metrics of classification.

A target of C marks a row whose label no training row has: every prediction for it is a mistake. Averages over classes
count such labels as one more class, of which no row is right.

Legend: B batch, C classes, K pairs of classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAUROC, MulticlassAveragePrecision

from mmft.tasks.calibration import CalibrationError

MOST_IN_A_MATRIX = 1000
"""Largest number of classes with a full confusion matrix; above it only the pairs that occur are listed."""

OTHER = "(not among the training labels)"
"""The row of the confusion matrix for labels that no training row has."""

_CONFUSION = "confusion_matrix"
_RANKED = ("auroc", "average_precision")


class Confusions(Metric):
    """A sparse confusion matrix: the pairs of true and predicted class that occur, with their counts.

    The true class may be C. A dense matrix of 5,000 classes takes 200 MB, and torchmetrics' precision, recall and F1
    build one per batch.
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


class _OneMoreClass:
    """A one-vs-rest metric of probabilities (B, C) and targets (B,) up to C; its last value is to be ignored."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes + 1, average=None)  # type: ignore[call-arg]

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds rows; none is predicted to be of the additional class."""
        super().update(functional.pad(preds, (0, 1)), target)  # type: ignore[misc]


class _AUROC(_OneMoreClass, MulticlassAUROC):
    """The area under each class's ROC curve."""


class _AveragePrecision(_OneMoreClass, MulticlassAveragePrecision):
    """The average precision of each class."""


def class_metrics(classes: int, calibration: bool) -> MetricCollection:
    """The metrics that `measured` computes: accuracy, AUROC, average precision, confusions.

    Args:
        classes: C, at least 2.
        calibration: whether to add the expected calibration error.
    """
    collection: dict[str, Any] = {_CONFUSION: Confusions(classes)}
    collection |= {"auroc": _AUROC(classes), "average_precision": _AveragePrecision(classes)}
    if calibration:
        collection["ece"] = CalibrationError(classes)
    return MetricCollection(collection)


class Counts(NamedTuple):
    """Row counts by class, the last for labels that no training row has."""

    right: Tensor  # (C + 1,) float64 true positives
    true: Tensor  # (C + 1,) float64 rows of the class
    predicted: Tensor  # (C + 1,) float64 rows predicted as the class

    @classmethod
    def of(cls, pairs: Tensor, classes: int) -> Counts:
        """From the (K, 3) of `Confusions`."""
        true, predicted, rows = pairs.T
        none, right = rows.new_zeros(classes + 1).double(), true == predicted
        given = ((true[right], rows[right]), (true, rows), (predicted, rows))
        return cls(*(none.index_add(0, where, count.double()) for where, count in given))

    def by_class(self) -> dict[str, Tensor]:
        """(C + 1,) precision, recall and F1; 0 where the divisor is 0."""
        parts = {"precision": self.predicted, "recall": self.true, "f1": (self.predicted + self.true) / 2}
        return {name: self.right / whole.clamp_min(0.5) for name, whole in parts.items()}

    def scalars(self) -> dict[str, float]:
        """Accuracy; macro (over classes with true or predicted rows) and weighted (by rows) means of `by_class`.

        With two classes, also the values of the second class.
        """
        found, some = {}, self.true + self.predicted > 0
        for name, values in self.by_class().items():
            found[f"{name}_macro"] = float(values[some].mean())
            found[f"{name}_weighted"] = float((values * self.true).sum() / self.true.sum())
            if len(values) == 3:
                found[name] = float(values[1])
        return found | {"accuracy": float(self.right.sum().float() / self.true.sum().float())}


def scalar_names(metrics: MetricCollection) -> list[str]:
    """Names of the scalars that `measured` returns for `class_metrics`."""
    confusions = cast("Confusions", metrics[_CONFUSION])
    nothing = Counts.of(torch.zeros(1, 3, dtype=torch.int64), confusions.classes)
    return [*nothing.scalars(), *(str(name) for name in metrics if name != _CONFUSION)]


def measured(metrics: MetricCollection) -> tuple[dict[str, float], Tensor]:
    """All scalars of `class_metrics`, including accuracy, precision, recall and F1, and (C,) the rows of each class."""
    with warnings.catch_warnings():  # about missing classes, which `_ranked` skips
        warnings.filterwarnings("ignore", "(No (posi|nega)tive samples|Average precision score)", UserWarning)
        computed: dict[str, Tensor] = metrics.compute()
    counts = Counts.of(computed.pop(_CONFUSION), cast("Confusions", metrics[_CONFUSION]).classes)
    ranked = {name: _ranked(computed.pop(name), counts.true) for name in _RANKED}
    return counts.scalars() | {name: float(value) for name, value in computed.items()} | ranked, counts.true[:-1]


def _ranked(values: Tensor, counts: Tensor) -> float:
    """A per-class ranking metric (C + 1,) as one number; `counts` (C + 1,) are the rows of each class."""
    told = (counts > 0) & (counts < counts.sum())  # ranking needs rows inside and outside the class
    chosen = slice(1, 2) if len(values) == 3 else slice(0, -1)
    return float(values[chosen][told[chosen]].mean())


def confusion_tables(metrics: MetricCollection, labels: Sequence[str]) -> dict[str, list[list[Any]]]:
    """The confusion matrix: one row per true label, one column per predicted label.

    Rows whose label no training row has are one more row, if there are any. With more than `MOST_IN_A_MATRIX` labels,
    `confusions` instead: one row per pair of labels that occurs.
    """
    pairs: list[list[int]] = metrics[_CONFUSION].compute().tolist()
    trues = [*labels, OTHER]
    if len(labels) > MOST_IN_A_MATRIX:
        told = [[trues[true], labels[predicted], rows] for true, predicted, rows in pairs]
        return {"confusions": [["true", "predicted", "rows"], *told]}
    matrix = [[0] * len(labels) for _ in trues]
    for true, predicted, rows in pairs:
        matrix[true][predicted] = rows
    named = [[label, *row] for label, row in zip(trues, matrix, strict=True)]
    named = named if any(matrix[-1]) else named[:-1]
    return {_CONFUSION: [["true / predicted", *labels], *named]}
