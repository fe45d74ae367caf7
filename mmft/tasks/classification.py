"""Classification: one of several classes per row.

Legend: B batch, C classes.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
from mmft.tasks.base import Task, at_least_float32

log = logging.getLogger(__name__)
_RANKED = ("auroc", "average_precision")


class Classification(Task):
    """Cross-entropy over C classes, with label smoothing, class weights and sample weights.

    A row's loss is that of `torch.nn.functional.cross_entropy` with class weights and label smoothing, times
    the row's sample weight. The sum is divided by the sum of sample weight times the target's class weight over
    the logical batch: with sample weights of 1, torch's own weighted mean. As torch has it, the smoothed share
    of the target is weighted by every class's weight, the rest by the target's.

    Metrics by class are averaged over classes (`_macro`), or over rows (`_weighted`). `auroc` and
    `average_precision` are one class against the others, averaged over the classes of which the split has
    rows; nan where it has rows of only one. With two classes they are those of the second label, and so are
    `precision`, `recall` and `f1`, which there are only then. Sample weights do not count in metrics.

    Args:
        labels: label names in order; None: those of the training rows, sorted (numbers by value).
        label_smoothing: share of the target that is spread evenly over all classes.
        class_weights: `none`, `balanced`, or one number per label.
    """

    monitor = "accuracy"
    constant = "majority class"

    def __init__(
        self, labels: list[str] | None = None, label_smoothing: float = 0.0, class_weights: str | list[float] = "none"
    ) -> None:
        self.label_smoothing = label_smoothing
        self._class_weights = class_weights
        self.labels: list[str] = list(labels or [])
        self._set_labels(self.labels)
        self._set_weights(None)
        self._told: set[str] = set()

    def _set_labels(self, labels: list[str]) -> None:
        self.labels = labels
        self.width = len(labels)
        self._index = {name: i for i, name in enumerate(labels)}

    def _set_weights(self, weights: Tensor | None) -> None:
        self.weights = weights  # (C,) float32
        self._weights_on: dict[tuple[torch.device, torch.dtype], Tensor] = {}

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
        self._set_weights(self._make_weights(counts))

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

    def classes(self, target: Tensor) -> Tensor:
        """Targets (R,) are classes."""
        return target

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Logits (B, C) and targets (B,) -> () sum over rows of weight times cross-entropy."""
        assert batch.target is not None
        logits = at_least_float32(outputs.logits)
        losses = functional.cross_entropy(  # (B,)
            logits,
            batch.target,
            self._class_weights_like(logits),
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return (losses * batch.weight.to(losses.dtype)).sum()

    def normaliser(self, batch: Batch) -> Tensor:
        """() float64 sum of sample weight times class weight."""
        assert batch.target is not None
        weight = batch.weight.double()
        weights = self._class_weights_like(weight)
        return weight.sum() if weights is None else (weight * weights[batch.target]).sum()

    def _class_weights_like(self, like: Tensor) -> Tensor | None:
        """(C,) the class weights in the type of `like` and on its device, to which they are copied only once."""
        if self.weights is None:
            return None
        key = like.device, like.dtype
        if key not in self._weights_on:
            with torch.inference_mode(False):  # or what validation has copied could not be trained with
                self._weights_on[key] = self.weights.to(like.device, like.dtype)
        return self._weights_on[key]

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """Targets (R,) and weights (R,) -> (C,) log frequencies of the classes; the most frequent is predicted."""
        counts = torch.zeros(self.width).index_add(0, target, weight.float())
        return (counts / counts.sum()).clamp_min(1e-9).log()

    def metrics(self) -> MetricCollection:
        """Accuracy, precision, recall and F1 (macro and weighted), AUROC, average precision, confusion matrix.

        With two classes also precision, recall and F1 of the second.
        """
        c = self.width
        averages: list[Literal["macro", "weighted", "none"]] = (
            ["macro", "weighted", "none"] if c == 2 else ["macro", "weighted"]
        )
        averaged = {
            (name if average == "none" else f"{name}_{average}"): metric(c, average=average)
            for name, metric in (
                ("precision", MulticlassPrecision),
                ("recall", MulticlassRecall),
                ("f1", MulticlassF1Score),
            )
            for average in averages
        }
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(c, average="micro"),
                **averaged,
                "auroc": MulticlassAUROC(c, average=None),
                "average_precision": MulticlassAveragePrecision(c, average=None),
                "confusion_matrix": MulticlassConfusionMatrix(c),
            }
        )

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds probabilities (B, C) and targets (B,)."""
        assert batch.target is not None
        metrics.update(at_least_float32(outputs.logits).softmax(-1), batch.target)

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """All but the confusion matrix."""
        with warnings.catch_warnings():  # about missing classes, which `_ranked` looks after
            warnings.filterwarnings("ignore", "(No (posi|nega)tive samples|Average precision score)", UserWarning)
            computed: dict[str, Tensor] = metrics.compute()
        counts = computed.pop("confusion_matrix").sum(1)  # (C,) rows of each class
        ranked = {name: self._ranked(computed.pop(name), counts) for name in _RANKED}
        single = {name: float(value if value.ndim == 0 else value[1]) for name, value in computed.items()}
        return single | ranked

    def _ranked(self, values: Tensor, counts: Tensor) -> float:
        """A ranking metric by class (C,), as one number; `counts` (C,) are the rows of each class."""
        told = (counts > 0) & (counts < counts.sum())  # a class is ranked against the rows of the others
        self._tell([name for name, count in zip(self.labels, counts.tolist(), strict=True) if not count])
        chosen = values[1:] if self.width == 2 else values
        return float(chosen[told[-len(chosen) :]].mean())

    def _tell(self, missing: list[str]) -> None:
        """Says once of each class that there are no rows of it."""
        if new := [name for name in missing if name not in self._told]:
            self._told.update(new)
            shown = ", ".join(new[:10]) + (f" and {len(new) - 10} more" if len(new) > 10 else "")
            log.warning("no row to measure on is labelled %s: auroc and average_precision leave it out", shown)

    def metric_names(self) -> list[str]:
        """All but the confusion matrix."""
        return [name for name in super().metric_names() if name != "confusion_matrix"]

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:
        """The confusion matrix: a row for each true label, a column for each predicted one."""
        counts = metrics["confusion_matrix"].compute().tolist()
        rows = [[name, *row] for name, row in zip(self.labels, counts, strict=True)]
        return {"confusion_matrix": [["true / predicted", *self.labels], *rows]}

    @property
    def answer_columns(self) -> list[str]:
        """`prediction`, `score`, and one `score_<label>` per label."""
        return ["prediction", "score", *(f"score_{name}" for name in self.labels)]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The likeliest label, its probability, and every label's."""
        probabilities = at_least_float32(outputs.logits).softmax(-1).cpu()  # (B, C)
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
        self._set_weights(None if state["weights"] is None else torch.tensor(state["weights"]))

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the labels are the same."""
        return bool(state.get("labels") == self.labels)


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
