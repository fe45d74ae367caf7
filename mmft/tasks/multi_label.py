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
from mmft.tasks.labels import WarnOnce, by_label_name, in_order, label_name, shown, tell_alike, tell_joined
from mmft.tasks.losses import asymmetric_loss
from mmft.tasks.metrics.multi_label import Measured, label_metrics
from mmft.tasks.thresholds import best_threshold, counts_above, f1

log = logging.getLogger(__name__)
FEW = 5
"""Fewest validation rows with a label for which its tuned threshold is trusted without a warning."""
_ONE_CELL = " Several label columns must hold 0 or 1; for a list or a separated text, type data.columns.label=COLUMN."


class MultiLabel(Task):
    """C independent labels per row: binary cross-entropy or the asymmetric loss.

    A row's loss is the mean over labels, times the row's sample weight; it is divided by the sum of sample weights.

    A row's labels are a list (Parquet, JSONL), a text with `separator` between names (default `|`, as in MovieLens and
    most tables with several values per cell), or several columns of 0 and 1. An empty list means none of the labels.
    An empty cell makes a bad row unless `empty=no_labels`: CSV cannot distinguish "none" from "unknown", and training
    on unknown rows as negatives would be silently wrong.

    A label is predicted if its probability exceeds its threshold. `map` (mean average precision) and `auroc` do not
    depend on thresholds; they are means over the labels with positive (for `auroc`: and negative) rows in the split.
    All other metrics use the thresholds: `_micro` pools all rows and labels, `_macro` is the mean over labels, with 0
    for undefined values as in scikit-learn; `exact_match` is the share of rows with all labels right. Metrics ignore
    sample weights.

    Args:
        labels: label names in order; None for those of the training rows, sorted (numbers by value).
        separator: between names in one cell, and in predictions.
        empty: an empty cell is `bad`, or means `no_labels`.
        unknown: a row with a label that is not among `labels` is `bad`, or such labels are `ignored`.
        loss: `bce` or `asymmetric`.
        pos_weight: `none`, `balanced`, or one number per label; multiplies the loss of positives.
        label_smoothing: moves targets of 0 and 1 towards 0.5 by half this value.
        gamma_pos: of the asymmetric loss; None for 0, as in the paper.
        gamma_neg: of the asymmetric loss; None for 4.
        clip: of the asymmetric loss; None for 0.05.
        thresholds: a number for all labels, or `tuned`: 0.5 in training, then per label the threshold with the best F1
            on the validation rows (Yang 2001, A Study of Thresholding Strategies for Text Categorization: SCut).
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
        self._given, self._pos_weight, self._loss = labels and [*map(label_name, labels)], pos_weight, loss
        self._empty_is_none, self._ignores = empty == "no_labels", unknown == "ignored"
        self._threshold = 0.5 if isinstance(thresholds, str) else thresholds
        self._is_tuned = isinstance(thresholds, str)
        self._missing = WarnOnce("no evaluation row has the label %s: map and auroc skip it")
        self._set_labels(list(self._given or []))
        self.pos_weight: Constant | None = None  # (C,)

    def _set_labels(self, labels: list[str]) -> None:
        self.labels, self.width = labels, len(labels)
        self._index = by_label_name(labels) | {name: i for i, name in enumerate(labels)}  # as columns are named, too
        self._set_thresholds([self._threshold] * len(labels))

    def _set_thresholds(self, thresholds: list[float]) -> None:
        self.thresholds = thresholds
        self._margin = Constant(torch.tensor(thresholds, dtype=torch.float64).logit())  # (C,)

    def label_names(self, label: Any) -> list[str]:
        """The names in one row's label, possibly none. Raises ValueError with the reason if it is unusable."""
        return label_set(label, self.separator, self._empty_is_none)

    def shown_label(self, label: Any) -> str:
        """The names joined by `separator`."""
        return self.separator.join(self.label_names(label))

    def fit(self, labels: Sequence[Any]) -> None:
        """Collects the label names (unless given) and the positive weights from the training rows."""
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
            log.warning("every training row has exactly one label; consider task=classification")
        if columns is None and self._given is not None and (unseen := [n for n in self._given if not counts[n]]):
            raise UserError(f"task.labels: no training row has the label {unseen[0]!r}. There are: {in_order(counts)}.")
        if columns is None and self._given is None:
            tell_alike(counts)
            tell_joined(counts, self.separator)
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
                f"({', '.join(self.labels) or 'none'}); multi_label needs at least two. For a single yes/no label, "
                "type task=classification."
            )
        if parted := [name for name in self.labels if self.separator in name]:
            raise UserError(
                f"task.separator={self.separator!r} occurs in the label {parted[0]!r}, but separates labels in "
                "predictions. Type task.separator='OTHER'."
            )

    def _weigh(self, counts: Counter[str], rows: int) -> None:
        """Sets the positive weights and warns about labels that cannot be learned."""
        for text, number in (("no training row has", 0), ("every training row has", rows)):
            if odd := [name for name in self.labels if counts[name] == number]:
                log.warning("%s the label %s: it cannot be learned", text, shown(odd))
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
                f"label {unknown[0]!r} is not among the training rows' labels (task.unknown=ignored skips it)"
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
            losses = asymmetric_loss(logits, batch.target, self.gamma_pos, self.gamma_neg, self.clip)  # (B, C)
        else:
            target = batch.target.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
            weight = None if self.pos_weight is None else self.pos_weight.like(logits)  # (C,)
            losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weight)
        return (losses.mean(1) * batch.weight.to(losses.dtype)).sum()

    def votes(self, target: Tensor) -> Tensor:
        """Targets (R, C) themselves."""
        return target

    def outputs_of_votes(self, mean: Tensor) -> Tensor:
        """Label frequencies (..., C) -> (..., C) their log odds."""
        return mean.logit(eps=1e-6)

    def metrics(self) -> MetricCollection:
        """The metrics of `label_metrics`."""
        return label_metrics(self.width)

    def _beyond(self, logits: Tensor) -> Tensor:
        """Logits (B, C) -> (B, C) float64, above 0 where the label is predicted; each label's ranking is kept."""
        logits = logits.double()
        return logits - self._margin.like(logits)

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds targets (B, C) and probabilities (B, C), shifted so that each label's threshold is 0.5."""
        assert batch.target is not None
        metrics.update(self._beyond(outputs.logits).sigmoid(), batch.target.long())

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """One number each."""
        measured = Measured.of(metrics)
        self._missing.tell(self._names_where(measured.support == 0))
        return measured.scalars

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:
        """`labels`: support, threshold, average precision, precision, recall and F1 of each label."""
        return {"labels": Measured.of(metrics).table(self.labels, self.thresholds)}

    @property
    def answer_columns(self) -> list[str]:
        """`prediction`, `score`, and one `score_<label>` per label."""
        return ["prediction", "score", *(f"score_{name}" for name in self.labels)]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The predicted labels joined by `separator`, their lowest probability, and the probability of every label.

        A row without a predicted label has an empty prediction and no score.
        """
        chosen = (self._beyond(outputs.logits) > 0).cpu().tolist()  # (B, C) bool
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

    def tune(self, logits: Tensor, target: Tensor, weight: Tensor) -> dict[str, Any]:  # noqa: ARG002 - unused by F1
        """Sets each label's threshold to the one with the best F1; a label without positive rows keeps 0.5."""
        probabilities, there = logits.double().sigmoid(), target.bool()
        counts = there.sum(0)  # (C,)
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
        """A copy with the thresholds of training."""
        other = copy.copy(self)
        other._set_thresholds([self._threshold] * self.width)
        return other

    def state(self) -> dict[str, Any]:
        """Label names, positive weights and thresholds."""
        weights = None if self.pos_weight is None else self.pos_weight.value.tolist()
        return {"labels": self.labels, "pos_weight": weights, "thresholds": self.thresholds}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `state`."""
        self._set_labels(list(state["labels"]))
        self._set_thresholds(list(state["thresholds"]))
        self.pos_weight = None if state["pos_weight"] is None else Constant(torch.tensor(state["pos_weight"]))

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the labels are the same."""
        return bool(state.get("labels") == self.labels)
