"""Answers to choose from: classification by a language model, whose classes are texts.

Legend: B batch, K answers, A tokens of an answer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mmft.batch import Outputs
from mmft.errors import UserError
from mmft.models.language.constrained import AnswerList
from mmft.models.language.prompt_tokenizer import PromptTokenizer
from mmft.models.precision import at_least_float32
from mmft.tasks.classification import Classification
from mmft.tasks.labels import in_order, shown

log = logging.getLogger(__name__)


class Choices:
    """The answers of a list, with what classification reports of its classes.

    Their probabilities are a softmax over the log-probabilities of the whole answers.

    Args:
        labels: the answers in order.

    Attributes:
        labels: the same.
        ids: token ids of each, the end-of-text token included; known after `start`.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = [label.strip() for label in labels]
        self.ids: list[list[int]] = []
        self._classes = Classification(self.labels, calibration="temperature")  # for `ece`; the temperature stays 1

    def start(self, tokenizer: PromptTokenizer) -> None:
        """Receives the tokenizer. Raises UserError if two answers have the same tokens."""
        self.ids = [tokenizer.answer(label) for label in self.labels]
        known: dict[tuple[int, ...], str] = {}
        for label, ids in zip(self.labels, map(tuple, self.ids), strict=True):
            if (other := known.setdefault(ids, label)) != label:
                raise UserError(
                    f"task.choices: {other!r} and {label!r} have the same tokens for this language model. "
                    "Leave one of them out"
                )
        self._index = {ids: at for at, ids in enumerate(known)}

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return max(map(len, self.ids))

    @property
    def constraint(self) -> AnswerList:
        """What may be written, token after token."""
        return AnswerList(self.ids)

    def check(self, answers: Counter[str]) -> None:
        """Raises UserError with fewer than two, or if no training row has one; warns of rows whose answer is another.

        Args:
            answers: of the training rows, with the number of rows.
        """
        if len(self.labels) < 2:
            raise UserError(
                f"task.choices=labels: all training rows have the same answer ({shown(self.labels)}). Leave it out"
            )
        others = {answer: rows for answer, rows in answers.items() if answer not in self.labels}
        if others and len(others) == len(answers):
            raise UserError(
                f"task.choices: no training row has an answer of the list. Answers: {shown(list(others))}. Type "
                "task.choices=labels, or name these"
            )
        if others:
            log.warning(
                "task.choices: %d training rows have answers that are not in the list, which can never be chosen: %s",
                *(sum(others.values()), shown(list(others))),
            )

    def metrics(self) -> MetricCollection:
        """Those of classification, with the calibration error."""
        return self._classes.metrics()

    def metric_names(self) -> list[str]:
        """The names of `scalars`."""
        return self._classes.metric_names()

    def update(self, metrics: MetricCollection, scores: Tensor, target: Tensor) -> None:
        """Adds log-probabilities (B, K) and the tokens of the right answers (B, A), -1 for padding."""
        none = len(self.ids)  # of a right answer that is not in the list
        classes = [self._index.get(tuple(t for t in row if t >= 0), none) for row in target.tolist()]
        probabilities = at_least_float32(scores).softmax(-1)  # (B, K)
        right = torch.tensor(classes, device=scores.device)
        metrics.update(preds=probabilities, target=right, probabilities=probabilities)

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """Those of classification."""
        return self._classes.scalars(metrics)

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:
        """The confusion matrix."""
        return self._classes.tables(metrics)

    @property
    def answer_columns(self) -> list[str]:
        """`prediction`, `score`, and one `score_<answer>` for each."""
        return self._classes.answer_columns

    def answers(self, scores: Tensor) -> list[dict[str, Any]]:
        """Log-probabilities (B, K) -> the likeliest answer, its probability, and that of every answer."""
        return self._classes.answers(Outputs(scores, scores, scores))


def distinct_answers(labels: Iterable[Any], names_of: Callable[[Any], Sequence[str]]) -> Counter[str]:
    """The answers of training rows, in order, with the number of rows; rows with an unusable label are left out.

    Args:
        labels: the table's values.
        names_of: a label's answers, of which the first is learned; raises ValueError for an unusable one.
    """
    counts: Counter[str] = Counter()
    for label in labels:
        try:
            counts[names_of(label)[0]] += 1
        except ValueError:
            continue
    return Counter({name: counts[name] for name in in_order(counts)})
