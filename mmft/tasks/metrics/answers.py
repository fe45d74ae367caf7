"""The metrics of written answers in one collection: of texts, perplexity, and of classification with choices.

Legend: B batch, R rows with an answer, K choices, A tokens of the right answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection

from mmft.tasks.choices import Choices
from mmft.tasks.metrics.ngrams import References, Texts
from mmft.tasks.metrics.parts import PartMetrics
from mmft.tasks.metrics.texts import Perplexity, TextMetrics


class AnswerMetrics(PartMetrics):
    """What is measured of answers.

    Args:
        names: of `TextMetrics`.
        choices: the answers to choose from; None without.
    """

    def __init__(self, names: Sequence[str], choices: Choices | None) -> None:
        own = MetricCollection({"texts": TextMetrics(names), "perplexity": Perplexity()}, compute_groups=False)
        super().__init__({"texts": own} | ({} if choices is None else {"choices": choices.metrics()}))
        self.choices = choices

    def add(self, log_probs: Tensor, tokens: Tensor) -> None:
        """Adds the log-probability (B,) and the number of learned tokens (B,) of every row of a batch."""
        self.seen["texts"].append(True)
        self.of("texts")["perplexity"].update(log_probs, tokens)

    def add_answers(self, texts: Texts, references: References, scores: Tensor | None, target: Tensor) -> None:
        """Adds the answers of the R rows of a batch that have one, once for each batch.

        Args:
            texts: of each row.
            references: of each row.
            scores: (R, K) log-probabilities of the choices.
            target: (R, A) tokens of the right answer, -1 for padding.
        """
        self.of("texts")["texts"].update(texts, references)
        if self.choices is not None:
            assert scores is not None
            self.seen["choices"].append(len(target) > 0)
            if len(target):
                self.choices.update(self.of("choices"), scores, target)

    def scalars(self) -> dict[str, float]:
        """One number each; nan for those of choices without rows."""
        texts = self.of("texts")
        found = texts["texts"].compute() | {"perplexity": texts["perplexity"].compute()}
        own = {name: float(value) for name, value in found.items()}
        if self.choices is None:
            return own
        if not self.has_rows("choices"):
            return own | dict.fromkeys(self.choices.metric_names(), math.nan)
        return own | self.choices.scalars(self.of("choices"))

    def tables(self) -> dict[str, list[list[Any]]]:
        """The confusion matrix of the choices."""
        if self.choices is None or not self.has_rows("choices"):
            return {}
        return self.choices.tables(self.of("choices"))
