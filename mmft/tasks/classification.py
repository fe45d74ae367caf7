"""Classification: one of several classes per row.

Legend: B batch, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
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

from mmft.batch import Batch, Outputs
from mmft.errors import UserError
from mmft.tasks.base import Task


class Classification(Task):
    """Cross-entropy over C classes, with label smoothing, class weights and sample weights.

    A row's loss is weighted by its sample weight times its class's weight, and the sum is divided by the
    sum of these weights over the logical batch, as torch's own weighted mean does.

    Args:
        labels: label names in order; None: those of the training rows, sorted (numbers by value).
        label_smoothing: share of the target that is spread evenly over all classes.
        class_weights: `none`, `balanced`, or one number per label.
    """

    monitor = "accuracy"
    minimised: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __init__(
        self, labels: list[str] | None = None, label_smoothing: float = 0.0, class_weights: str | list[float] = "none"
    ) -> None:
        self.label_smoothing = label_smoothing
        self._class_weights = class_weights
        self.labels: list[str] = list(labels or [])
        self.weights: Tensor | None = None  # (C,) float32
        self._set_labels(self.labels)

    def _set_labels(self, labels: list[str]) -> None:
        self.labels = labels
        self.width = len(labels)
        self._index = {name: i for i, name in enumerate(labels)}

    def fit(self, labels: Sequence[Any]) -> None:
        """Takes the label names (unless given) and the class weights from the training rows."""
        counts = Counter(label_name(label) for label in labels if label is not None)
        if not self.labels:
            self._set_labels(sorted(counts, key=_by_value))
        elif unseen := [name for name in self.labels if not counts[name]]:
            raise UserError(f"task.labels: no training row is labelled {unseen[0]!r}. There are: {sorted(counts)}.")
        if self.width < 2:
            raise UserError(
                f"data.columns.label: the training rows have {self.width} class{'' if self.width == 1 else 'es'} "
                f"({', '.join(self.labels) or 'none'}); classification needs at least two."
            )
        self.weights = self._make_weights(counts)

    def _make_weights(self, counts: Counter[str]) -> Tensor | None:
        if self._class_weights == "none":
            return None
        if self._class_weights == "balanced":
            rows = sum(counts[name] for name in self.labels)
            return torch.tensor([rows / (self.width * counts[name]) for name in self.labels])
        if len(self._class_weights) != self.width:
            raise UserError(
                f"task.class_weights has {len(self._class_weights)} numbers for {self.width} labels "
                f"({', '.join(self.labels)})."
            )
        return torch.tensor([float(w) for w in self._class_weights])

    def encode(self, label: Any) -> int:
        """The label's class, 0 to C - 1."""
        if label is None:
            raise ValueError("no label")
        name = label_name(label)
        if name not in self._index:
            raise ValueError(f"label {name!r} is not among the training rows' labels")
        return self._index[name]

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Logits (B, C) and targets (B,) -> () sum over rows of weight times cross-entropy."""
        assert batch.target is not None
        log_p = functional.log_softmax(self._float(outputs.logits), dim=-1)  # (B, C)
        picked = log_p.gather(-1, batch.target.unsqueeze(-1)).squeeze(-1)  # (B,)
        smooth = self.label_smoothing
        losses = -((1 - smooth) * picked + smooth * log_p.mean(-1)) if smooth else -picked
        return (losses * self._row_weights(batch, losses)).sum()

    def normaliser(self, batch: Batch) -> Tensor:
        """() sum of sample weight times class weight."""
        return self._row_weights(batch, batch.weight).sum()

    def _row_weights(self, batch: Batch, like: Tensor) -> Tensor:
        weight = batch.weight.to(like.dtype)
        if self.weights is None:
            return weight
        assert batch.target is not None
        return weight * self.weights.to(like)[batch.target]

    @staticmethod
    def _float(logits: Tensor) -> Tensor:
        return logits if logits.dtype == torch.float64 else logits.float()  # bf16 is too coarse for a softmax

    def metrics(self) -> MetricCollection:
        """Accuracy, precision, recall and F1 (macro and weighted), AUROC, average precision, confusion matrix."""
        c = self.width
        averaged = {
            f"{name}_{average}": metric(c, average=average)
            for name, metric in (
                ("precision", MulticlassPrecision),
                ("recall", MulticlassRecall),
                ("f1", MulticlassF1Score),
            )
            for average in ("macro", "weighted")
        }
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(c, average="micro"),
                **averaged,
                "auroc": MulticlassAUROC(c),
                "average_precision": MulticlassAveragePrecision(c),
                "confusion_matrix": MulticlassConfusionMatrix(c),
            }
        )

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds probabilities (B, C) and targets (B,)."""
        assert batch.target is not None
        metrics.update(self._float(outputs.logits).softmax(-1), batch.target)

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """All but the confusion matrix."""
        computed = metrics.compute()
        return {name: float(value) for name, value in computed.items() if value.ndim == 0}

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:
        """The confusion matrix: a row for each true label, a column for each predicted one."""
        counts = metrics["confusion_matrix"].compute().tolist()
        rows = [[name, *row] for name, row in zip(self.labels, counts, strict=True)]
        return {"confusion_matrix": [["true / predicted", *self.labels], *rows]}

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The likeliest label, its probability, and every label's."""
        probabilities = self._float(outputs.logits).softmax(-1).cpu()  # (B, C)
        scores, classes = probabilities.max(-1)
        return [
            {
                "prediction": self.labels[k],
                "score": score,
                **{f"score_{name}": p for name, p in zip(self.labels, row, strict=True)},
            }
            for k, score, row in zip(classes.tolist(), scores.tolist(), probabilities.tolist(), strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """The label names and class weights."""
        return {"labels": self.labels, "weights": None if self.weights is None else self.weights.tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes the label names and class weights."""
        self._set_labels(list(state["labels"]))
        self.weights = None if state["weights"] is None else torch.tensor(state["weights"])


def label_name(label: Any) -> str:
    """The label as text: whole floats without their point, so that 1 and 1.0 are one label."""
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label)


def _by_value(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
