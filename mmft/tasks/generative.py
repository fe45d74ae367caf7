"""The interface of tasks whose answers are written by a language model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mmft.batch import Batch, Outputs
from mmft.models.language.decoding import Decoding
from mmft.models.language.prompt_tokenizer import PromptTokenizer
from mmft.tasks.base import Task


class GenerativeTask(Task):
    """A task whose targets and answers are tokens of a language model, which it learns from `start_generation`.

    Attributes:
        max_answer_tokens: tokens of the longest answer to learn.
        validation_rows: number of validation rows that answers are written for; None for all.
        label_smoothing: share of the target that is spread evenly over the vocabulary, in training.
        packing: whether the model reads several rows in one sequence.
    """

    max_answer_tokens: int
    validation_rows: int | None
    label_smoothing: float
    packing: bool

    @property
    @abstractmethod
    def longest_answer(self) -> int:
        """Tokens of the longest text to learn or to write."""

    @property
    @abstractmethod
    def tokenizer(self) -> PromptTokenizer:
        """The language model's, once it is known."""

    @abstractmethod
    def references_of(self, label: Any) -> list[str]:
        """All reference answers of a label, for `Batch.references`. Raises ValueError if there is none."""

    @abstractmethod
    def learnable(self, label: Any) -> list[str]:
        """Those of its answers that may be learned. Raises ValueError if there is none."""

    @property
    @abstractmethod
    def drawn_targets(self) -> Callable[[Any], Sequence[Any]] | None:
        """Label -> its targets, of which a training row gets one in each epoch; None: `encode` gives the only one."""

    @abstractmethod
    def decoding(self, vocabulary: int) -> Decoding:
        """How answers are written, once the tokenizer is known; `vocabulary` is the model's. Raises UserError."""

    @abstractmethod
    def learned(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B,) float64 the sum of the log-probabilities of each row's answer tokens, and (B,) their number."""

    @abstractmethod
    def to_explain(self, batch: Batch, outputs: Outputs, answer: Any) -> tuple[Batch, Outputs]:
        """A row with the answer that is explained as its target, and its outputs as `subjects` needs them.

        Args:
            batch: the row.
            outputs: of the model, with a generated text.
            answer: a text or the table's value; the generated text is explained if it is no answer.
        """

    @abstractmethod
    def start_generation(self, tokenizer: Any) -> PromptTokenizer:
        """Receives the language model's tokenizer, and returns that of its prompts. Raises UserError."""
