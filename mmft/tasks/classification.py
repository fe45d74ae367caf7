"""Classification: one of several classes per row.

Legend: B batch, C classes.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MetricCollection

from mmft.batch import Batch, Outputs
from mmft.config.schema.task import ClassificationConfig
from mmft.errors import UserError
from mmft.models.precision import at_least_float32
from mmft.tasks.base import Task
from mmft.tasks.calibration import calibrated
from mmft.tasks.class_weights import class_weights
from mmft.tasks.constants import Constant
from mmft.tasks.labels import UnseenLabel, WarnOnce, by_label_name, in_order, label_name, shown, tell_alike
from mmft.tasks.losses import focal_loss, of_mixed
from mmft.tasks.metrics.classification import class_metrics, confusion_tables, measured, scalar_names
from mmft.tasks.prompts import fill_from_prompts, label_embeddings, prompts_of, templates_of
from mmft.tasks.thresholds import tuned

_SEVERAL = "a list of labels, but classification needs one. For any number of labels per row, type task=multi_label"


class Classification(Task):
    """Cross-entropy or focal loss over C classes, with class weights and sample weights.

    A row's loss is `torch.nn.functional.cross_entropy` with class weights and label smoothing, times the row's sample
    weight. The sum is divided by the sum of sample weight times the target's class weight over the logical batch; with
    sample weights of 1 this is torch's own weighted mean. As in torch, the smoothed share of the target is weighted by
    every class's weight, the rest by the target's. The focal loss has the same divisor, so a down-weighted row still
    counts as a row. (The paper divides by the number of anchors that hold an object; there are no anchors here.)

    A row mixed with another (`Batch.mixed_target`) gets the loss and the class weight of both targets in proportion to
    their shares, which equals those of the mixed target.

    `tune` fits, on the validation rows after training, how logits become probabilities and predictions. The loss
    always uses the raw logits.

    An evaluated row with a label that no training row has counts as a mistake in every metric, and has no loss.

    Per-class metrics are averaged over classes (`_macro`) or over rows (`_weighted`). `auroc` and `average_precision`
    are one-vs-rest, averaged over the classes that occur in the split; nan if only one occurs. With two classes they
    refer to the second label, as do `precision`, `recall` and `f1`, which exist only then. `ece`, the expected
    calibration error, requires `calibration`. Metrics ignore sample weights.

    Args:
        labels: label names in order; None for those of the training rows, sorted (numbers by value).
        label_smoothing: share of the target that is spread evenly over all classes.
        class_weights: `none`, `balanced`, or one number per label.
        loss: `cross_entropy` or `focal`, which has no label smoothing.
        focal_gamma: of the focal loss; None for 2, as in the paper.
        calibration: `none`, or `temperature` to divide logits by a fitted temperature.
        threshold_metric: with two classes, the metric that the threshold on the second label's probability maximises:
            `f1`, `f1_macro` or `balanced_accuracy` (logged as `recall_macro`); None to predict the likelier class.
        head_init: `random`, or `prompts` for a head that starts as the zero-shot classifier of a pretrained pair.
        templates: prompt templates for such a start, `{}` for the label's name; None for the bare name.
    """

    facts = ClassificationConfig
    monitor = "accuracy"
    constant = "majority class"
    softmax = True

    def __init__(
        self,
        labels: list[str] | None = None,
        label_smoothing: float = 0.0,
        class_weights: str | list[float] = "none",
        loss: str = "cross_entropy",
        focal_gamma: float | None = None,
        calibration: str = "none",
        threshold_metric: str | None = None,
        head_init: str = "random",
        templates: str | list[str] | None = None,
    ) -> None:
        self._starts_from_prompts = head_init == "prompts"
        self.label_templates = templates_of(templates)
        self.label_smoothing = label_smoothing
        self.focal_gamma = 2.0 if focal_gamma is None else focal_gamma
        self._class_weights, self._loss = class_weights, loss
        self._is_calibrated, self._threshold_metric = calibration == "temperature", threshold_metric
        self.temperature, self.threshold = 1.0, 0.5
        self.labels: list[str] = list(labels or [])
        self._set_labels(self.labels)
        self.weights: Constant | None = None  # (C,)
        self._missing = WarnOnce("no evaluation row is labelled %s: auroc and average_precision skip it")

    def _set_labels(self, labels: list[str]) -> None:
        self.labels = labels
        self.width = len(labels)
        self._index = by_label_name(labels)

    def fit(self, labels: Sequence[Any]) -> None:
        """Collects the label names (unless given) and the class weights from the training rows."""
        counts = Counter(label_name(label) for label in labels if not (label is None or isinstance(label, list)))
        if not counts and any(isinstance(label, list) for label in labels):
            raise UserError(f"data.columns.label: {_SEVERAL}.")
        if not self.labels:
            tell_alike(counts)
            self._set_labels(in_order(counts))
        elif len(self._index) < self.width:
            raise UserError(f"task.labels: two of {shown(self.labels)} are one label. Remove one of them.")
        elif unseen := [name for name in self.labels if not counts[label_name(name)]]:
            raise UserError(f"task.labels: no training row is labelled {unseen[0]!r}. There are: {sorted(counts)}.")
        if self.width < 2:
            raise UserError(
                f"data.columns.label: the training rows have {self.width} class{'' if self.width == 1 else 'es'} "
                f"({', '.join(self.labels) or 'none'}); classification needs at least two."
            )
        if self._threshold_metric is not None and self.width != 2:
            raise UserError(
                f"task.threshold_metric={self._threshold_metric} needs two classes; there are {self.width} "
                f"({shown(self.labels)}). Type task.threshold_metric=null"
            )
        self.weights = class_weights(self._class_weights, self.labels, [counts[name] for name in self._index])

    def encode(self, label: Any) -> int:
        """The label's class, 0 to C - 1."""
        if label is None:
            raise ValueError("no label")
        if isinstance(label, list):
            raise ValueError(_SEVERAL)
        name = label_name(label)
        if name not in self._index:
            raise UnseenLabel(name, self.labels)
        return self._index[name]

    def encode_evaluated(self, label: Any, unseen: list[str]) -> int:
        """As `encode`; C, which no prediction equals, for a label that no training row has."""
        try:
            return self.encode(label)
        except UnseenLabel as error:
            unseen.append(error.name)
            return self.width

    def _known(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (R,) -> (R,) the same within 0 to C - 1, and (R,) bool, True = it was."""
        return target.clamp(max=self.width - 1), target < self.width

    def classes(self, target: Tensor) -> Tensor:
        """Targets (R,) are classes."""
        return target

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Logits (B, C) and targets (B,) -> () sum over rows of weight times cross-entropy or focal loss."""
        assert batch.target is not None
        logits = at_least_float32(outputs.logits)
        losses = of_mixed(partial(self._losses, logits), batch)  # (B,)
        return (losses * batch.weight.to(losses.dtype)).sum()

    def _losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (B, C) and targets (B,) -> (B,) losses with class weights, without sample weights; 0 for C."""
        weights = None if self.weights is None else self.weights.like(logits)
        target, known = self._known(target)
        if self._loss == "focal":
            losses = focal_loss(logits, target, self.focal_gamma, weights)
        else:
            smoothing = self.label_smoothing
            losses = functional.cross_entropy(logits, target, weights, reduction="none", label_smoothing=smoothing)
        return losses * known

    def normaliser(self, batch: Batch) -> Tensor:
        """() float64 sum of sample weight times class weight, over rows with a loss."""
        assert batch.target is not None
        weight = batch.weight.double()
        return (weight * of_mixed(partial(self._class_weights_of, weight), batch)).sum()

    def _class_weights_of(self, like: Tensor, target: Tensor) -> Tensor:
        """Targets (B,) -> (B,) class weights, with dtype and device as `like`; 0 for C."""
        target, known = self._known(target)
        return known.to(like) if self.weights is None else self.weights.like(like)[target] * known

    def votes(self, target: Tensor) -> Tensor:
        """Targets (R,) -> (R, C) int64 one for the class."""
        return functional.one_hot(target, self.width)

    def outputs_of_votes(self, mean: Tensor) -> Tensor:
        """Class frequencies (..., C) -> (..., C) their logarithms: predicts the most frequent class."""
        return mean.clamp_min(1e-9).log()

    def head_prompts(self) -> list[str]:
        """Every template of every label, if the head starts from them."""
        return prompts_of(self.labels, self.label_templates) if self._starts_from_prompts else []

    def start_head(self, head: nn.Module, fused: Tensor, scale: float) -> None:
        """Sets the weights of images to the scaled embedding of each label's prompts, all others to zero."""
        fill_from_prompts(head, label_embeddings(fused, self.width), scale)

    def metrics(self) -> MetricCollection:
        """The metrics of `class_metrics`."""
        return class_metrics(self.width, calibration=self._is_calibrated)

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds targets (B,), probabilities (B, C), and the same shifted so that the threshold is 0.5."""
        assert batch.target is not None
        tempered = self.tempered(outputs.logits)
        moved = self.moved(tempered).softmax(-1)  # (B, C)
        metrics.update(preds=moved, target=batch.target, probabilities=tempered.softmax(-1))

    def tempered(self, logits: Tensor) -> Tensor:
        """Logits (B, C) -> (B, C) divided by the temperature; their softmax is the probabilities."""
        logits = at_least_float32(logits)
        return logits if self.temperature == 1 else logits / self.temperature

    def moved(self, tempered: Tensor) -> Tensor:
        """Logits (B, C) -> (B, C) shifted by the threshold: the argmax is the prediction, each class's ranking kept."""
        if self.threshold == 0.5:
            return tempered
        moves = torch.tensor([0.5, self.threshold], dtype=torch.float64, device=tempered.device).logit()  # (2,)
        return tempered.double() - moves

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """All but the confusion matrix."""
        values, counts = measured(metrics)
        self._missing.tell(name for name, count in zip(self.labels, counts.tolist(), strict=True) if not count)
        return values

    def metric_names(self) -> list[str]:
        """All but the confusion matrix."""
        return scalar_names(self.metrics())

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:
        """The confusion matrix; with many classes its nonzero entries."""
        return confusion_tables(metrics, self.labels)

    @property
    def answer_columns(self) -> list[str]:
        """`prediction`, `score`, and one `score_<label>` per label."""
        return ["prediction", "score", *(f"score_{name}" for name in self.labels)]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The predicted label (the likeliest, or by threshold), its probability, and the probability of every label."""
        tempered = self.tempered(outputs.logits)
        classes = self.moved(tempered).argmax(-1).cpu()  # (B,)
        probabilities = tempered.softmax(-1).cpu()  # (B, C)
        scores = probabilities.gather(1, classes[:, None])[:, 0]
        return [
            {
                "prediction": self.labels[k],
                "score": score,
                **{f"score_{name}": p for name, p in zip(self.labels, row, strict=True)},
            }
            for k, score, row in zip(classes.tolist(), scores.tolist(), probabilities.tolist(), strict=True)
        ]

    @property
    def tunes(self) -> bool:
        """Whether a temperature or a threshold is fitted."""
        return self._is_calibrated or self._threshold_metric is not None

    def tune(self, logits: Tensor, target: Tensor, weight: Tensor) -> dict[str, Any]:
        """Fits the temperature, then the threshold. Only the temperature's likelihood uses sample weights."""
        known = target < self.width
        logits, target, weight = logits[known].double(), target[known], weight[known]
        told: dict[str, Any] = {}
        if self._is_calibrated:
            self.temperature, told = calibrated(logits, target, weight.double())
        if self._threshold_metric is not None:
            second = self.tempered(logits).softmax(-1)[:, 1]
            self.threshold, found = tuned(second, target == 1, self._threshold_metric, self.labels[1])
            told |= found
        return told

    def untuned(self) -> Self:
        """A copy with temperature 1 that predicts the likeliest class."""
        other = copy.copy(self)
        other.temperature, other.threshold = 1.0, 0.5
        return other

    def state(self) -> dict[str, Any]:
        """Label names, class weights, temperature and threshold."""
        return {
            "labels": self.labels,
            "weights": None if self.weights is None else self.weights.value.tolist(),
            "temperature": self.temperature,
            "threshold": self.threshold,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `state`."""
        self._set_labels(list(state["labels"]))
        self.weights = None if state["weights"] is None else Constant(torch.tensor(state["weights"]))
        self.temperature, self.threshold = state.get("temperature", 1.0), state.get("threshold", 0.5)

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the labels are the same."""
        return bool(state.get("labels") == self.labels)
