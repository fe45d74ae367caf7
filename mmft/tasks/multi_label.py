"""Multi-label classification: any number of labels per row.

Legend: B batch, R rows, C labels.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection

from mmft.batch import Batch, Outputs
from mmft.config.schema.task import MultiLabelConfig
from mmft.errors import UserError
from mmft.models.precision import at_least_float32
from mmft.tasks.base import Task
from mmft.tasks.constants import Constant
from mmft.tasks.label_sets import label_set
from mmft.tasks.labels import ToldOnce, in_order, shown, tell_alike
from mmft.tasks.losses import asymmetric_loss
from mmft.tasks.multi_label_metrics import Measured, label_metrics
from mmft.tasks.thresholds import best_threshold, counts_above, f1

log = logging.getLogger(__name__)
FEW = 5
"""Validation rows with a label from which on its tuned threshold is not warned of."""
_ONE_CELL = " Several columns hold 0 and 1 each; for a list, or a text with separators, type data.columns.label=COLUMN."


class MultiLabel(Task):
    """C labels, each of which a row has or has not: binary cross-entropy, or the asymmetric loss.

    A row's loss is the mean over labels, times the row's sample weight; it is divided by the sum of sample weights.

    The labels of a row are a list (Parquet, JSONL), a text with `separator` between names (`|` unless it is said, as
    MovieLens and most tables with several values in a cell have it), or several columns of 0 and 1. An empty list is a
    row with none of the labels. An empty cell is a bad row unless `empty` says that it means the same: CSV cannot tell
    "none" from "unknown", and to learn unknown rows as having no label would be silent and wrong.

    A label is predicted where its probability is above its threshold. `map` (mean average precision) and `auroc` do
    not depend on thresholds; they are means over the labels that the split has (for `auroc`: and has not). All other
    metrics are at the thresholds: `_micro` over all rows and labels alike, `_macro` the mean over labels, where as in
    scikit-learn 0 stands for what is not defined; `exact_match` is the share of rows with all labels right. Sample
    weights do not count in metrics.

    Args:
        labels: label names in order; None: those of the training rows, sorted (numbers by value).
        separator: between names in one cell, and in predictions.
        empty: an empty cell is `bad`, or means `no_labels`.
        unknown: a row with a label that is not among `labels` is `bad`, or such labels are `ignored`.
        loss: `bce` or `asymmetric`.
        pos_weight: `none`, `balanced`, or one number per label; a factor of the loss where the label is there.
        label_smoothing: 0 becomes half of it, 1 as much less.
        gamma_pos: of the asymmetric loss; None: 0, as the paper has it.
        gamma_neg: the same; None: 4.
        clip: the same; None: 0.05.
        thresholds: `tuned`: 0.5 in training; then, for each label, what makes its F1 on the validation rows best
            (Yang 2001, A Study of Thresholding Strategies for Text Categorization: SCut). Or a number for all.
    """

    facts = MultiLabelConfig
    monitor = "map"
    constant = "frequencies of labels"

    def __init__(
        self,
        labels: list[str] | None = None,
        separator: str = "|",
        empty: str = "bad",
        unknown: str = "bad",
        loss: str = "bce",
        pos_weight: str | list[float] = "none",
        label_smoothing: float = 0.0,
        gamma_pos: float | None = None,
        gamma_neg: float | None = None,
        clip: float | None = None,
        thresholds: str | float = "tuned",
    ) -> None:
        self.separator, self.label_smoothing = separator, label_smoothing
        self.gamma_pos = 0.0 if gamma_pos is None else gamma_pos
        self.gamma_neg = 4.0 if gamma_neg is None else gamma_neg
        self.clip = 0.05 if clip is None else clip
        self._given, self._pos_weight, self._loss = labels, pos_weight, loss
        self._empty_is_none, self._ignores = empty == "no_labels", unknown == "ignored"
        self._threshold = 0.5 if isinstance(thresholds, str) else thresholds
        self._is_tuned = isinstance(thresholds, str)
        self._missing = ToldOnce("no row to measure on has the label %s: map and auroc leave it out")
        self._set_labels(list(labels or []))
        self.pos_weight: Constant | None = None  # (C,)

    def _set_labels(self, labels: list[str]) -> None:
        self.labels, self.width = labels, len(labels)
        self._index = {name: i for i, name in enumerate(labels)}
        self._set_thresholds([self._threshold] * len(labels))

    def _set_thresholds(self, thresholds: list[float]) -> None:
        self.thresholds = thresholds
        self._margin = Constant(torch.tensor(thresholds, dtype=torch.float64).logit())  # (C,)

    def label_names(self, label: Any) -> list[str]:
        """The names in one row's label; none: it has none of them. Raises ValueError with the reason."""
        return label_set(label, self.separator, self._empty_is_none)

    def fit(self, labels: Sequence[Any]) -> None:
        """Takes the label names (unless given) and the weights of positives from the training rows."""
        sets, reason = [], "no label"
        for label in labels:
            try:
                sets.append(set(self.label_names(label)))
            except ValueError as error:
                reason = str(error)
        if not sets:
            raise UserError(f"data.columns.label: no training row has labels that can be used: {reason}.{_ONE_CELL}")
        counts = Counter(name for one in sets for name in one)
        columns = next((list(label) for label in labels if isinstance(label, dict)), None)
        if columns is None and all(len(one) == 1 for one in sets):
            log.warning("every training row has exactly one label, which is what task=classification is for")
        if columns is None and self._given is not None and (unseen := [n for n in self._given if not counts[n]]):
            raise UserError(f"task.labels: no training row has the label {unseen[0]!r}. There are: {in_order(counts)}.")
        if columns is None and self._given is None:
            tell_alike(counts)
        self._set_labels(columns or self._given or in_order(counts))
        self._check_names()
        usable = [one for one in sets if self._ignores or one <= self._index.keys()]
        self._weigh(Counter(name for one in usable for name in one), len(usable))
        if others := in_order(counts.keys() - self._index.keys()):
            log.warning("labels of training rows that are not in task.labels: %s", shown(others))

    def _check_names(self) -> None:
        if self.width < 2:
            raise UserError(
                f"data.columns.label: the training rows have {self.width} label{'' if self.width == 1 else 's'} "
                f"({', '.join(self.labels) or 'none'}); multi_label needs at least two. For one that is there or not, "
                "type task=classification."
            )
        if parted := [name for name in self.labels if self.separator in name]:
            raise UserError(
                f"task.separator={self.separator!r} is part of the label {parted[0]!r}, and stands between labels in "
                "predictions. Type task.separator='OTHER'."
            )

    def _weigh(self, counts: Counter[str], rows: int) -> None:
        """Weights of positives; tells of labels that cannot be learned."""
        for text, number in (("no training row has", 0), ("every training row has", rows)):
            if odd := [name for name in self.labels if counts[name] == number]:
                log.warning("%s the label %s: there is nothing to learn of it", text, shown(odd))
        weights = self._pos_weight
        if weights == "balanced":
            weights = [max(rows - counts[name], 1) / max(counts[name], 1) for name in self.labels]
        if not isinstance(weights, str) and len(weights) != self.width:
            raise UserError(f"task.pos_weight has {len(weights)} numbers for {self.width} labels.")
        self.pos_weight = None if isinstance(weights, str) else Constant(torch.tensor(weights, dtype=torch.float32))

    def encode(self, label: Any) -> Tensor:
        """(C,) bool, True = the row has the label."""
        names = self.label_names(label)
        unknown = [name for name in names if name not in self._index]
        if unknown and not self._ignores:
            raise ValueError(
                f"label {unknown[0]!r} is not among the training rows' labels (task.unknown=ignored leaves it out)"
            )
        target = torch.zeros(self.width, dtype=torch.bool)
        target[[self._index[name] for name in names if name in self._index]] = True
        return target

    def empty_target(self) -> Tensor:
        """(C,) bool."""
        return torch.zeros(self.width, dtype=torch.bool)

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Logits (B, C) and targets (B, C) -> () sum over rows of weight times the mean over labels."""
        assert batch.target is not None
        logits = at_least_float32(outputs.logits)
        if self._loss == "asymmetric":
            losses = asymmetric_loss(logits, batch.target, self.gamma_pos, self.gamma_neg, self.clip)
        else:
            target = batch.target.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
            weight = None if self.pos_weight is None else self.pos_weight.like(logits)
            losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weight)
        return (losses.mean(1) * batch.weight.to(losses.dtype)).sum()

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """Targets (R, C) and weights (R,) -> (C,) log odds of the labels' weighted frequencies."""
        share = (target.to(weight) * (weight / weight.sum())[:, None]).sum(0)
        return share.logit(eps=1e-6)

    def metrics(self) -> MetricCollection:
        """mAP, AUROC; at the thresholds precision, recall and F1 (micro and macro), exact match, Hamming loss."""
        return label_metrics(self.width)

    def _beyond(self, logits: Tensor) -> Tensor:
        """Logits (B, C) -> (B, C) float64, above 0 where the label is predicted; ordered as the probabilities are."""
        logits = logits.double()
        return logits - self._margin.like(logits)

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds targets (B, C), and probabilities (B, C) that are moved so that each label's threshold is 0.5."""
        assert batch.target is not None
        metrics.update(self._beyond(outputs.logits).sigmoid(), batch.target.long())

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """One number each."""
        measured = Measured.of(metrics)
        self._missing.tell(self._names_where(measured.support == 0))
        return measured.scalars

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:
        """`labels`: of each its rows, threshold, average precision, precision, recall and F1."""
        return {"labels": Measured.of(metrics).table(self.labels, self.thresholds)}

    @property
    def answer_columns(self) -> list[str]:
        """`prediction`, `score`, and one `score_<label>` per label."""
        return ["prediction", "score", *(f"score_{name}" for name in self.labels)]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The chosen labels with `separator` between them, the lowest of their probabilities, and every label's.

        A row for which none is chosen has an empty prediction and no score.
        """
        chosen = (self._beyond(outputs.logits) > 0).cpu().tolist()
        probabilities = outputs.logits.double().sigmoid().cpu().tolist()
        answers = []
        for row, are in zip(probabilities, chosen, strict=True):
            found = [c for c, is_chosen in enumerate(are) if is_chosen]
            answer = {
                "prediction": self.separator.join(self.labels[c] for c in found),
                "score": min((row[c] for c in found), default=None),
            }
            answers.append(answer | {f"score_{name}": p for name, p in zip(self.labels, row, strict=True)})
        return answers

    @property
    def tunes(self) -> bool:
        """Whether thresholds are tuned."""
        return self._is_tuned

    def tune(self, logits: Tensor, target: Tensor, weight: Tensor) -> dict[str, Any]:  # noqa: ARG002 - not of metrics
        """Takes for each label the threshold with the best F1; where no row has it, 0.5 stays."""
        probabilities, there = logits.double().sigmoid(), target.bool()
        counts = there.sum(0)
        none = counts == 0
        found = [best_threshold(probabilities[:, c], there[:, c], f1) for c in range(self.width)]
        self._set_thresholds([0.5 if none[c] else one.threshold for c, one in enumerate(found)])
        for text, rare in (
            ("no validation row has the label %s: its threshold stays 0.5", none),
            (f"fewer than {FEW} validation rows have the label %s: its threshold is a guess", ~none & (counts < FEW)),
        ):
            if rare.any():
                log.warning(text, shown(self._names_where(rare)))
        after = [float(f1(counts_above(probabilities[:, c], there[:, c], t))) for c, t in enumerate(self.thresholds)]
        means = {"before": sum(one.before for one in found) / self.width, "after": sum(after) / self.width}
        log.info(
            "thresholds, tuned on %d validation rows: %.3f to %.3f; val/f1_macro %.4f, at 0.5 it was %.4f",
            len(logits),
            min(self.thresholds),
            max(self.thresholds),
            means["after"],
            means["before"],
        )
        return {"thresholds": dict(zip(self.labels, self.thresholds, strict=True)), "f1_macro": means}

    def _names_where(self, mask: Tensor) -> list[str]:
        return [name for name, is_so in zip(self.labels, mask.tolist(), strict=True) if is_so]

    def untuned(self) -> Self:
        """With the thresholds of training."""
        other = copy.copy(self)
        other._set_thresholds([self._threshold] * self.width)
        return other

    def state(self) -> dict[str, Any]:
        """Label names, their weights and thresholds."""
        weights = None if self.pos_weight is None else self.pos_weight.value.tolist()
        return {"labels": self.labels, "pos_weight": weights, "thresholds": self.thresholds}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes them."""
        self._set_labels(list(state["labels"]))
        self._set_thresholds(list(state["thresholds"]))
        self.pos_weight = None if state["pos_weight"] is None else Constant(torch.tensor(state["pos_weight"]))

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the labels are the same."""
        return bool(state.get("labels") == self.labels)
