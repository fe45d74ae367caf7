"""Question answering about an image, over a vocabulary of answers, each row's by several annotators.

Legend: B batch, R rows, C answers of the vocabulary, S answers that one row's target can hold.
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
from mmft.tasks.labels import shown

log = logging.getLogger(__name__)
TOP = 5
"""Answers that are predicted, the likeliest first."""
SLOTS = 32
"""Most answers of the vocabulary that one row's target can hold. VQA, OK-VQA and VizWiz have ten annotators."""
_METRICS = ("vqa_accuracy", "top5_vqa_accuracy", "vqa_accuracy_reachable")


class QuestionAnswering(Task):
    """One answer of a vocabulary; learned from what each answer is worth by several annotators' (soft targets).

    The question is the row's text. Its answers are a list with one for each annotator (Parquet, JSONL), a text with
    `separator` between them, or a single one. What an answer is worth, to learn and to measure, is `vqa_score`.
    A row without any answer is a bad row. One whose answers are all outside the vocabulary is none: it is measured,
    and whatever is predicted scores 0.

    `bce` is binary cross-entropy of each answer's worth, summed over the vocabulary (Teney et al. 2018, arXiv
    1708.02711): a row may have several right answers, and one with none in the vocabulary teaches that none of them is
    right. `cross_entropy` is that of the worths divided by their sum: a row with none in the vocabulary has no target,
    no loss, and does not count as a row. A row's loss is multiplied by its sample weight; the sum is divided by that of
    the weights of the rows that count.

    `vqa_accuracy` is the mean over rows of the predicted answer's worth, `top5_vqa_accuracy` that of the best of the
    five likeliest, `vqa_accuracy_reachable` that of the best in the vocabulary, above which no model can come. Sample
    weights do not count in metrics.

    Args:
        answers: answers of the vocabulary at most, those given in most training rows; None: no limit. 3,129 is the size
            that VQA v2's usual vocabulary has (answers that are right for more than eight questions).
        min_count: training rows in which an answer must be given. From a single row nothing general is learned.
        vocabulary: the answers themselves; None: those of the training rows.
        separator: between answers in one cell.
        normalise: write answers as the VQA evaluation does before they are counted and compared.
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
        self._mean: Tensor | None = None  # (C,) each answer's average worth in the training rows

    def _set_labels(self, labels: list[str]) -> None:
        self.labels, self.width = labels, len(labels)
        self._index = {answer: i for i, answer in enumerate(labels)}

    def make_head(self, width: int) -> nn.Module:
        """A linear layer; for `bce` its bias begins with each answer's average worth (Lin et al. 2017, section 3.3).

        Of many answers nearly all are wrong for a row, and without it the first steps learn little but this: on 432
        rows of clip art, three epochs end at a vqa_accuracy of 0.45 instead of 0.40 (three seeds). Cross-entropy, whose
        answers share one probability, gained nothing.
        """
        head = nn.Linear(width, self.width)
        if self._mean is not None and not self.softmax:
            with torch.no_grad():
                head.bias.copy_(self._as_outputs(self._mean))
        return head

    def _scores(self, label: Any) -> dict[str, float]:
        """What each different answer of a row is worth, the one that is given most first."""
        return scores_of(answers_of(label, self.separator, self.normalise))

    def label_names(self, label: Any) -> list[str]:
        """The different answers of a row, the one that is given most first. Raises ValueError with the reason."""
        return list(self._scores(label))

    def fit(self, labels: Sequence[Any]) -> None:
        """Takes the vocabulary (unless given) from the training rows, and says what can be reached with it."""
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
            raise UserError(f"task.vocabulary: {error}. Leave one of them out.") from None

    def _check_size(self) -> None:
        if self.width < 2:
            found = f"only {self.labels[0]!r} is" if self.labels else "no answer is"
            rarer = "" if self._min_count == 1 else " Type task.min_count=1, or name answers in task.vocabulary."
            raise UserError(
                f"data.columns.label: {found} given in at least task.min_count={self._min_count} training rows; "
                f"question_answering needs two answers.{rarer}"
            )

    def _tell(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Says how much of the training rows the vocabulary covers."""
        best = [max((score for answer, score in row.items() if answer in self._index), default=0.0) for row in rows]
        different = {answer for row in rows for answer in row}
        log.info(
            "vocabulary: %d answers, %d of the training rows' %d different ones; with it a vqa_accuracy of %.4f can be "
            "reached on them, and %d of %d rows have none of its answers",
            *(self.width, len(different & self._index.keys()), len(different), sum(best) / len(best)),
            *(best.count(0.0), len(best)),
        )
        unseen = [answer for answer in self.labels if answer not in different]
        if len(unseen) == self.width:
            raise UserError(
                f"task.vocabulary: no training row has any of its answers ({shown(self.labels)}). They have, "
                f"most often first: {shown(commonest(rows, 5, 1))}."
            )
        if unseen:
            log.warning("answers of task.vocabulary that no training row has: %s", shown(unseen))

    def encode(self, label: Any) -> Tensor:
        """(S, 2) float64 the place in the vocabulary and the worth of each of a row's answers that are in it.

        S is `SLOTS`, or C where that is less; what is left over is 0, 0. Dense (C,) targets of all rows of VQA v2
        would take gigabytes.
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
        """Targets (B, S, 2) -> (B, C) what each answer of the vocabulary is worth."""
        dense = target.new_zeros(len(target), self.width, dtype=dtype)
        return dense.scatter_add_(1, target[..., 0].long(), target[..., 1].to(dtype))

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Logits (B, C) and targets (B, S, 2) -> () sum over rows of weight times the loss."""
        assert batch.target is not None
        logits = at_least_float32(outputs.logits)
        worth = self.soft_targets(batch.target, logits.dtype)  # (B, C)
        if self.softmax:
            shares = worth / torch.where(self._has_target(batch), worth.sum(1), 1.0)[:, None]
            losses = -(shares * logits.log_softmax(1)).sum(1)
        else:
            losses = functional.binary_cross_entropy_with_logits(logits, worth, reduction="none").sum(1)
        return (losses * batch.weight.to(losses.dtype)).sum()

    def normaliser(self, batch: Batch) -> Tensor:
        """() float64 the sum of sample weights; for `cross_entropy` of the rows that have a target."""
        weight = super().normaliser(batch)
        return (batch.weight.double() * self._has_target(batch)).sum() if self.softmax else weight

    @staticmethod
    def _has_target(batch: Batch) -> Tensor:
        """(B,) bool, True = one of the row's answers is in the vocabulary."""
        assert batch.target is not None
        return batch.target[..., 1].any(1)

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """Targets (R, S, 2) and weights (R,) -> (C,) as outputs, what each answer is worth on average."""
        share = (weight / weight.sum()).double()[:, None] * target[..., 1]  # (R, S)
        mean = target.new_zeros(self.width).index_add(0, target[..., 0].long().flatten(), share.flatten())
        return self._as_outputs(mean)

    def _as_outputs(self, mean: Tensor) -> Tensor:
        """(C,) what answers are worth -> (C,) float32 outputs of which these are the probabilities."""
        return (mean.clamp_min(1e-6).log() if self.softmax else mean.logit(eps=1e-6)).float()

    def metrics(self) -> MetricCollection:
        """The worth of the predicted answer, of the best of five, and of the best there is."""
        return MetricCollection({name: _MeanScore(at) for at, name in enumerate(_METRICS)})

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds what the predicted answers (B, C) are worth by the targets (B, S, 2)."""
        assert batch.target is not None
        index, worth = batch.target[..., 0].long(), batch.target[..., 1]  # (B, S)
        likeliest = self._likeliest(outputs.logits)  # (B, K)
        found = ((likeliest[:, :, None] == index[:, None]) * worth[:, None]).sum(2)  # (B, K)
        metrics.update(torch.stack([found[:, 0], found.amax(1), worth.amax(1)], 1))

    def _likeliest(self, logits: Tensor) -> Tensor:
        """Logits (B, C) -> (B, K) int64 the answers with the highest, in their order; K is `TOP`, or C if less."""
        return at_least_float32(logits).topk(min(TOP, self.width), dim=1).indices

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """One number each."""
        return {name: float(value) for name, value in metrics.compute().items()}

    @property
    def answer_columns(self) -> list[str]:
        """`prediction` and `score`, then `prediction_2`, `score_2` and so on, to the fifth or the last."""
        numbers = range(2, min(TOP, self.width) + 1)
        return ["prediction", "score", *(f"{name}_{k}" for k in numbers for name in ("prediction", "score"))]

    @property
    def answer_texts(self) -> list[str]:
        """The predictions."""
        return self.answer_columns[::2]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The likeliest answers and their probabilities, which for `bce` are each answer's own: they add up to no 1."""
        logits = at_least_float32(outputs.logits)
        likeliest = self._likeliest(logits)
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
        """Takes it."""
        self._set_labels(list(state["labels"]))

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the vocabulary is the same."""
        return bool(state.get("labels") == self.labels)


class _MeanScore(Metric):
    """The mean over rows of one score; all rows are kept, so that the order in which ranks saw them changes nothing.

    Args:
        column: which of the scores.
    """

    scores: list[Tensor]

    def __init__(self, column: int) -> None:
        super().__init__()
        self._column = column
        self.add_state("scores", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor) -> None:
        """Adds rows (B, scores) float64; every metric of a collection the same, since torchmetrics shares states."""
        self.scores.append(scores)

    def compute(self) -> Tensor:
        """() float64."""
        return torch.cat(self.scores)[:, self._column].mean()
