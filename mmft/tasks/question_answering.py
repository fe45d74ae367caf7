"""Visual question answering over a vocabulary of answers, with one or several annotators per row.

Legend: B batch, R rows, C answers of the vocabulary, S answer slots of a row's target, K predicted answers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric, MetricCollection

from mmft.batch import Batch, Outputs
from mmft.config.schema.task import QuestionAnsweringConfig
from mmft.errors import UserError
from mmft.models.precision import at_least_float32
from mmft.tasks.answers import answers_of, commonest, distinct, scores_of
from mmft.tasks.base import Task
from mmft.tasks.labels import by_label_name, shown

log = logging.getLogger(__name__)
TOP = 5
"""Number of predicted answers, the likeliest first."""
SLOTS = 32
"""Maximum number of answers in one row's target. VQA, OK-VQA and VizWiz have ten annotators."""
_METRICS = ("vqa_accuracy", "top5_vqa_accuracy", "vqa_accuracy_reachable")


class QuestionAnswering(Task):
    """Predicts one answer of a vocabulary; trained on soft targets, the annotators' scores of each answer.

    The question is the row's text. Its answers are a list with one per annotator (Parquet, JSONL), a text with
    `separator` between them, or a single answer. Targets and metrics use `vqa_score`. A row without any answer is a bad
    row. A row whose answers are all outside the vocabulary is not: it is evaluated, and every prediction scores 0.

    `bce` is binary cross-entropy with each answer's score, summed over the vocabulary (Teney et al. 2018, arXiv
    1708.02711): a row may have several right answers, and a row with none in the vocabulary is a negative for all of
    them. `cross_entropy` uses the scores divided by their sum: a row with none in the vocabulary has no target and no
    loss, and does not count as a row. A row's loss is multiplied by its sample weight; the sum is divided by the sum
    of the weights of the rows that count.

    `vqa_accuracy` is the mean over rows of the predicted answer's score, `top5_vqa_accuracy` that of the best of the
    five likeliest, `vqa_accuracy_reachable` that of the best answer in the vocabulary, an upper bound for any model.
    Metrics ignore sample weights.

    Args:
        answers: maximum size of the vocabulary, the most frequent first; None for no limit. 3,129 is the size of VQA
            v2's usual vocabulary (answers that are right for more than eight questions).
        min_count: minimum number of training rows with an answer; one seen in a single row does not generalise.
        vocabulary: the answers themselves; None for those of the training rows.
        separator: between answers in one cell.
        normalise: whether to normalise answers as the VQA evaluation does before counting and comparing them.
        loss: `bce` or `cross_entropy`.
    """

    facts = QuestionAnsweringConfig
    monitor = "vqa_accuracy"
    constant = "majority answer"

    def __init__(
        self,
        answers: int | None = 3129,
        min_count: int = 2,
        vocabulary: list[str] | None = None,
        separator: str = "|",
        normalise: bool = True,
        loss: str = "bce",
    ) -> None:
        self.separator, self.normalise = separator, normalise
        self.softmax = loss == "cross_entropy"
        self._most, self._min_count, self._given = answers, min_count, vocabulary
        self._set_labels([])
        self._mean: Tensor | None = None  # (C,) mean score of each answer over the training rows

    def _set_labels(self, labels: list[str]) -> None:
        self.labels, self.width = labels, len(labels)
        self._index = by_label_name(labels) | {answer: i for i, answer in enumerate(labels)}

    def make_head(self, width: int) -> nn.Module:
        """A linear layer; for `bce` its bias starts at each answer's mean score (Lin et al. 2017, section 3.3).

        Nearly all answers are wrong for any row, and otherwise the first steps learn only that; see docs/decisions.md.
        """
        head = nn.Linear(width, self.width)
        if self._mean is not None and not self.softmax:
            with torch.no_grad():
                head.bias.copy_(self.outputs_of_votes(self._mean))
        return head

    def _scores(self, label: Any) -> dict[str, float]:
        """The score of each distinct answer of a row, the most frequent first."""
        return scores_of(answers_of(label, self.separator, self.normalise))

    def label_names(self, label: Any) -> list[str]:
        """The distinct answers of a row, the most frequent first. Raises ValueError with the reason if unusable."""
        return list(self._scores(label))

    def shown_label(self, label: Any) -> str:
        """The answers joined by `separator`."""
        return self.separator.join(self.label_names(label))

    def fit(self, labels: Sequence[Any]) -> None:
        """Builds the vocabulary from the training rows (unless given) and logs the best accuracy it allows."""
        rows, reason = [], "no answer"
        for label in labels:
            try:
                rows.append(self._scores(label))
            except ValueError as error:
                reason = str(error)
        if not rows:
            raise UserError(f"data.columns.label: no training row has answers that can be used: {reason}.")
        self._set_labels(commonest(rows, self._most, self._min_count) if self._given is None else self._vocabulary())
        self._check_size()
        self._mean = torch.zeros(self.width, dtype=torch.float64)
        for answer, score in (pair for row in rows for pair in row.items() if pair[0] in self._index):
            self._mean[self._index[answer]] += score / len(rows)
        self._tell(rows)

    def _vocabulary(self) -> list[str]:
        try:
            return distinct(self._given or [], self.normalise)
        except ValueError as error:
            raise UserError(f"task.vocabulary: {error}. Remove one of them.") from None

    def _check_size(self) -> None:
        if self.width < 2:
            found = f"only {self.labels[0]!r} is" if self.labels else "no answer is"
            rarer = "" if self._min_count == 1 else " Type task.min_count=1, or name answers in task.vocabulary."
            raise UserError(
                f"data.columns.label: {found} given in at least task.min_count={self._min_count} training rows; "
                f"question_answering needs two answers.{rarer}"
            )

    def _tell(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Logs how well the vocabulary covers the training rows."""
        best = [max((score for answer, score in row.items() if answer in self._index), default=0.0) for row in rows]
        different = {answer for row in rows for answer in row}
        log.info(
            "vocabulary: %d answers, %d of the training rows' %d distinct ones; best possible vqa_accuracy on them: "
            "%.4f; %d of %d rows have no answer in the vocabulary",
            *(self.width, len(different & self._index.keys()), len(different), sum(best) / len(best)),
            *(best.count(0.0), len(best)),
        )
        unseen = [answer for answer in self.labels if answer not in different]
        if len(unseen) == self.width:
            raise UserError(
                f"task.vocabulary: no training row has any of its answers ({shown(self.labels)}). Most "
                f"frequent answers: {shown(commonest(rows, 5, 1))}."
            )
        if unseen:
            log.warning("answers of task.vocabulary that no training row has: %s", shown(unseen))

    def encode(self, label: Any) -> Tensor:
        """(S, 2) float64 vocabulary index and score of each of a row's answers in the vocabulary.

        S is the smaller of `SLOTS` and C; unused slots are 0, 0. Dense (C,) targets for all rows of VQA v2 would take
        gigabytes.
        """
        found = [(self._index[name], score) for name, score in self._scores(label).items() if name in self._index]
        target = self.empty_target()
        if len(found) > len(target):
            raise ValueError(f"{len(found)} different answers of the vocabulary; a row can have at most {len(target)}")
        if found:
            target[: len(found)] = torch.tensor(found, dtype=torch.float64)
        return target

    def empty_target(self) -> Tensor:
        """(S, 2) float64."""
        return torch.zeros(min(self.width, SLOTS), 2, dtype=torch.float64)

    def soft_targets(self, target: Tensor, dtype: torch.dtype) -> Tensor:
        """Targets (B, S, 2) -> (B, C) dense scores; empty slots add 0 to answer 0."""
        dense = target.new_zeros(len(target), self.width, dtype=dtype)
        return dense.scatter_add_(1, target[..., 0].long(), target[..., 1].to(dtype))

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Logits (B, C) and targets (B, S, 2) -> () sum over rows of weight times the loss."""
        assert batch.target is not None
        logits = at_least_float32(outputs.logits)
        worth = self.soft_targets(batch.target, logits.dtype)  # (B, C)
        if self.softmax:
            shares = worth / torch.where(self._has_target(batch), worth.sum(1), 1.0)[:, None]  # (B, C)
            losses = -(shares * logits.log_softmax(1)).sum(1)  # (B,)
        else:
            losses = functional.binary_cross_entropy_with_logits(logits, worth, reduction="none").sum(1)
        return (losses * batch.weight.to(losses.dtype)).sum()

    def normaliser(self, batch: Batch) -> Tensor:
        """() float64 the sum of sample weights; for `cross_entropy` only of rows with a target."""
        weight = super().normaliser(batch)
        return (batch.weight.double() * self._has_target(batch)).sum() if self.softmax else weight

    @staticmethod
    def _has_target(batch: Batch) -> Tensor:
        """(B,) bool, True = one of the row's answers is in the vocabulary."""
        assert batch.target is not None
        return batch.target[..., 1].any(1)

    def votes(self, target: Tensor) -> Tensor:
        """Targets (R, S, 2) -> (R, C) float32 dense scores."""
        return self.soft_targets(target, torch.float32)

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """Targets (R, S, 2) and weights (R,) -> (C,) outputs for each answer's mean score, without dense votes."""
        share = (weight / weight.sum()).double()[:, None] * target[..., 1]  # (R, S)
        mean = target.new_zeros(self.width).index_add(0, target[..., 0].long().flatten(), share.flatten())
        return self.outputs_of_votes(mean)

    def outputs_of_votes(self, mean: Tensor) -> Tensor:
        """Mean scores (..., C) -> (..., C) float32 outputs whose probabilities they are."""
        return (mean.clamp_min(1e-6).log() if self.softmax else mean.logit(eps=1e-6)).float()

    def metrics(self) -> MetricCollection:
        """The score of the predicted answer, of the best of five, and of the best in the vocabulary."""
        return MetricCollection({name: _MeanScore(at) for at, name in enumerate(_METRICS)})

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds the scores of the predicted answers, from outputs (B, C) and targets (B, S, 2)."""
        assert batch.target is not None
        index, worth = batch.target[..., 0].long(), batch.target[..., 1]  # (B, S)
        likeliest = self.likeliest(outputs.logits)  # (B, K)
        found = ((likeliest[:, :, None] == index[:, None]) * worth[:, None]).sum(2)  # (B, K)
        metrics.update(torch.stack([found[:, 0], found.amax(1), worth.amax(1)], 1))  # (B, 3)

    def likeliest(self, logits: Tensor) -> Tensor:
        """Logits (B, C) -> (B, K) int64 indices of the highest, best first; K is the smaller of `TOP` and C."""
        return at_least_float32(logits).topk(min(TOP, self.width), dim=1).indices

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """One number each."""
        return {name: float(value) for name, value in metrics.compute().items()}

    @property
    def answer_columns(self) -> list[str]:
        """`prediction` and `score`, then `prediction_2`, `score_2` and so on, up to K."""
        numbers = range(2, min(TOP, self.width) + 1)
        return ["prediction", "score", *(f"{name}_{k}" for k in numbers for name in ("prediction", "score"))]

    @property
    def answer_texts(self) -> list[str]:
        """The predictions."""
        return self.answer_columns[::2]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The likeliest answers and their probabilities, which with `bce` are independent and do not sum to 1."""
        logits = at_least_float32(outputs.logits)
        likeliest = self.likeliest(logits)
        probabilities = (logits.softmax(1) if self.softmax else logits.sigmoid()).gather(1, likeliest)
        return [
            dict(
                zip(
                    self.answer_columns,
                    [value for c, p in zip(places, scores, strict=True) for value in (self.labels[c], p)],
                    strict=True,
                )
            )
            for places, scores in zip(likeliest.tolist(), probabilities.tolist(), strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """The vocabulary."""
        return {"labels": self.labels}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the vocabulary."""
        self._set_labels(list(state["labels"]))

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the vocabulary is the same."""
        return bool(state.get("labels") == self.labels)


class _MeanScore(Metric):
    """The mean over rows of one score. Stores all rows, so that the result does not depend on their order over ranks.

    Args:
        column: index of the score.
    """

    scores: list[Tensor]

    def __init__(self, column: int) -> None:
        super().__init__()
        self._column = column
        self.add_state("scores", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor) -> None:
        """Adds rows (B, 3) float64, identical for all metrics of the collection, since torchmetrics shares states."""
        self.scores.append(scores)

    def compute(self) -> Tensor:
        """() float64."""
        return torch.cat(self.scores)[:, self._column].mean()
