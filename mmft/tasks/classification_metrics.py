"""What classification is measured by.

Legend: C classes.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from mmft.tasks.calibration import CalibrationError

_RANKED = ("auroc", "average_precision")
_BY_CLASS: dict[str, Any] = {"precision": MulticlassPrecision, "recall": MulticlassRecall, "f1": MulticlassF1Score}


def class_metrics(classes: int, calibration: bool) -> MetricCollection:
    """Accuracy, precision, recall and F1 (macro and weighted), AUROC, average precision, confusion matrix.

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
    collection["confusion_matrix"] = MulticlassConfusionMatrix(classes)
    if calibration:
        collection["ece"] = CalibrationError(classes)
    return MetricCollection(collection)


def measured(metrics: MetricCollection) -> tuple[dict[str, float], Tensor]:
    """What `class_metrics` come to: all numbers, and (C,) the rows of each class."""
    with warnings.catch_warnings():  # about missing classes, which `_ranked` leaves out
        warnings.filterwarnings("ignore", "(No (posi|nega)tive samples|Average precision score)", UserWarning)
        computed: dict[str, Tensor] = metrics.compute()
    counts = computed.pop("confusion_matrix").sum(1)
    ranked = {name: _ranked(computed.pop(name), counts) for name in _RANKED}
    single = {name: float(value if value.ndim == 0 else value[1]) for name, value in computed.items()}
    return single | ranked, counts


def _ranked(values: Tensor, counts: Tensor) -> float:
    """A ranking metric by class (C,), as one number; `counts` (C,) are the rows of each class."""
    told = (counts > 0) & (counts < counts.sum())  # a class is ranked against the rows of the others
    chosen = values[1:] if len(values) == 2 else values
    return float(chosen[told[-len(chosen) :]].mean())
