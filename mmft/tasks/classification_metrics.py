"""What classification is measured by.

Legend: B batch, C classes, K pairs of classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from mmft.tasks.calibration import CalibrationError

MOST_IN_A_MATRIX = 1000
"""Classes of which the confusion matrix is a table; of more only the pairs that occur are told."""

_CONFUSION = "confusion_matrix"
_RANKED = ("auroc", "average_precision")
_BY_CLASS: dict[str, Any] = {"precision": MulticlassPrecision, "recall": MulticlassRecall, "f1": MulticlassF1Score}


class Confusions(Metric):
    """How many rows of each class are predicted to be of which, by the pairs that occur.

    A matrix of 5,000 classes takes 200 MB, and each batch as much again and longer than all other metrics together.
    """

    pairs: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("pairs", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds probabilities (B, C) and targets (B,)."""
        self.pairs.append(target * self.classes + preds.argmax(1))

    def compute(self) -> Tensor:
        """(K, 3) int64: true class, predicted class, rows; in the order of classes."""
        pairs, rows = torch.cat(self.pairs).unique(return_counts=True)
        return torch.stack([pairs // self.classes, pairs % self.classes, rows], dim=1)


def class_metrics(classes: int, calibration: bool) -> MetricCollection:
    """Accuracy, precision, recall and F1 (macro and weighted), AUROC, average precision, confusions.

    With two classes also precision, recall and F1 of the second.

    Args:
        classes: C, at least 2.
        calibration: also the expected calibration error.
    """
    averages = ["macro", "weighted", "none"] if classes == 2 else ["macro", "weighted"]
    collection: dict[str, Any] = {"accuracy": MulticlassAccuracy(classes, average="micro")}
    for name, metric in _BY_CLASS.items():
        for average in averages:
            collection[name if average == "none" else f"{name}_{average}"] = metric(classes, average=average)
    collection["auroc"] = MulticlassAUROC(classes, average=None)
    collection["average_precision"] = MulticlassAveragePrecision(classes, average=None)
    collection[_CONFUSION] = Confusions(classes)
    if calibration:
        collection["ece"] = CalibrationError(classes)
    return MetricCollection(collection)


def measured(metrics: MetricCollection) -> tuple[dict[str, float], Tensor]:
    """What `class_metrics` come to: all numbers, and (C,) the rows of each class."""
    with warnings.catch_warnings():  # about missing classes, which `_ranked` leaves out
        warnings.filterwarnings("ignore", "(No (posi|nega)tive samples|Average precision score)", UserWarning)
        computed: dict[str, Tensor] = metrics.compute()
    pairs = computed.pop(_CONFUSION)
    counts = pairs.new_zeros(cast("Confusions", metrics[_CONFUSION]).classes).index_add(0, pairs[:, 0], pairs[:, 2])
    ranked = {name: _ranked(computed.pop(name), counts) for name in _RANKED}
    single = {name: float(value if value.ndim == 0 else value[1]) for name, value in computed.items()}
    return single | ranked, counts


def _ranked(values: Tensor, counts: Tensor) -> float:
    """A ranking metric by class (C,), as one number; `counts` (C,) are the rows of each class."""
    told = (counts > 0) & (counts < counts.sum())  # a class is ranked against the rows of the others
    chosen = values[1:] if len(values) == 2 else values
    return float(chosen[told[-len(chosen) :]].mean())


def confusion_tables(metrics: MetricCollection, labels: Sequence[str]) -> dict[str, list[list[Any]]]:
    """The confusion matrix: a row for each true label, a column for each predicted one.

    Of more than `MOST_IN_A_MATRIX` labels instead `confusions`: a row for each pair of labels that occurs.
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
