"""Generation: a language model writes a text about the image.

Legend: B batch, A answer tokens, T generated tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mmft.batch import Batch, Outputs
from mmft.config.schema.task import GenerationConfig
from mmft.errors import UserError
from mmft.models.precision import at_least_float32
from mmft.models.prompt_tokenizer import PromptTokenizer
from mmft.models.sequences import learned_tokens
from mmft.tasks.answer_texts import references_of
from mmft.tasks.generative import GenerativeTask
from mmft.tasks.labels import text_of
from mmft.tasks.subject import Subject
from mmft.tasks.text_metrics import Perplexity, TextMetrics

_PADDING = -1  # in place of a token


class Generation(GenerativeTask):
    """Minus the log-probability of the answer's tokens, the end-of-text token included.

    Outputs are the log-probabilities of the answer tokens (B, A), 0 for padding, and of what else of a conversation is
    learned. The loss of a logical batch is divided
    by its number of answer tokens, each weighted as its row, or with `normalise=rows` by the weight of its rows.

    Metrics compare the generated text with all reference answers; `perplexity` is that of the first. They ignore sample
    weights.

    Args:
        prompt: what the model is asked, see `PromptTokenizer`.
        chat_template: `auto` or `none`.
        references: which of a row's reference answers is learned, the `first` or a `random` one in each epoch.
        max_answer_tokens: longest answer to learn from.
        max_new_tokens: longest text to generate; None for the same.
        normalise: `tokens` or `rows`.
        metrics: of `TextMetrics`; the first is the monitor.
    """

    facts = GenerationConfig
    constant = "none"
    width = 0

    def __init__(
        self,
        prompt: str | None = None,
        chat_template: Literal["auto", "none"] = "auto",
        references: Literal["first", "random"] = "first",
        max_answer_tokens: int = 64,
        max_new_tokens: int | None = None,
        normalise: str = "tokens",
        metrics: Sequence[str] = ("exact_match", "token_f1"),
    ) -> None:
        self._prompt, self._chat_template = prompt, chat_template
        self._draws = references == "random"
        self._max_answer_tokens = max_answer_tokens
        self._max_new_tokens = max_new_tokens or max_answer_tokens
        self._by_rows = normalise == "rows"
        self._metrics = list(metrics)
        self.monitor = self._metrics[0]
        self._tokenizer: PromptTokenizer | None = None

    @property
    def tokenizer(self) -> PromptTokenizer:
        """The language model's, once it is known."""
        assert self._tokenizer is not None
        return self._tokenizer

    @property
    def max_answer_tokens(self) -> int:
        """Tokens of the longest answer to learn."""
        return self._max_answer_tokens

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the longest text to write."""
        return self._max_new_tokens

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest text to learn or to write."""
        return max(self.max_answer_tokens, self.max_new_tokens)

    def start_generation(self, tokenizer: Any) -> PromptTokenizer:
        """Receives the language model's tokenizer, and returns that of its prompts."""
        self._tokenizer = PromptTokenizer(tokenizer, self._prompt, self._chat_template)
        return self._tokenizer

    @property
    def closing_report(self) -> Literal["modalities", "embeddings", "none"]:
        """None: no linear head writes texts."""
        return "none"

    def fit(self, labels: Sequence[Any]) -> None:
        """Checks that there are answers."""
        if all(label is None or not text_of(label).strip() for label in labels):
            raise UserError("data.columns.label: no training row has an answer")

    def encode(self, label: Any) -> list[int]:
        """(max_answer_tokens,) the first answer's tokens and the end of the answer, padded with -1.

        If one of several is drawn, each has to fit.
        """
        return self._encoded(label)[0]

    def encode_evaluated(self, label: Any, unseen: list[str]) -> list[int]:  # noqa: ARG002 - no labels
        """As `encode`; only the first answer has to fit."""
        return self._padded(references_of(label)[0])

    def references_of(self, label: Any) -> list[str]:
        """All reference answers. Raises ValueError if there is none."""
        return references_of(label)

    @property
    def drawn_targets(self) -> Callable[[Any], Sequence[list[int]]] | None:
        """The reference answers, if one is drawn."""
        return self._encoded if self._draws else None

    def _encoded(self, label: Any) -> list[list[int]]:
        return [self._padded(answer) for answer in self.learnable(label)]

    def learnable(self, label: Any) -> list[str]:
        """The first answer, or all if one of them is drawn."""
        answers = references_of(label)
        return answers if self._draws else answers[:1]

    def _padded(self, answer: str) -> list[int]:
        ids = self.tokenizer.answer(answer)
        if len(ids) > self.max_answer_tokens:
            raise ValueError(
                f"the answer has {len(ids)} tokens, more than task.max_answer_tokens={self.max_answer_tokens}"
            )
        return ids + [_PADDING] * (self.max_answer_tokens - len(ids))

    def empty_target(self) -> Tensor:
        """(max_answer_tokens,) int64, all padding."""
        return torch.full((self.max_answer_tokens,), _PADDING)

    def label_names(self, label: Any) -> list[str]:
        """The reference answers. Raises ValueError if there is none."""
        return self.references_of(label)

    def shown_label(self, label: Any) -> str:
        """The reference answer; several as a JSON list, as in a table."""
        answers = self.references_of(label)
        return answers[0] if len(answers) == 1 else json.dumps(answers, ensure_ascii=False)

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Log-probabilities (B, A) -> () minus their sum, each weighted as its row."""
        found = at_least_float32(outputs.logits).sum(1)  # (B,)
        if self._by_rows:
            found = found / _tokens(batch).clamp_min(1)
        return -(found * batch.weight.to(found.dtype)).sum()

    def normaliser(self, batch: Batch) -> Tensor:
        """() float64 the weighted number of answer tokens, or of rows."""
        weight = batch.weight.double()
        return weight.sum() if self._by_rows else (weight * _tokens(batch)).sum()

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """There is no text that suits every row."""
        raise NotImplementedError("task=generation has no constant answer")

    def metrics(self) -> MetricCollection:
        """Those of the config, and perplexity."""
        return MetricCollection({"texts": TextMetrics(self._metrics), "perplexity": Perplexity()}, compute_groups=False)

    def metric_names(self) -> list[str]:
        """The names of `scalars`."""
        return [*self._metrics, "perplexity"]

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds generated texts and log-probabilities."""
        assert batch.target is not None
        assert outputs.generated is not None
        references = batch.references or [[text] for text in self._texts(batch.target)]
        metrics["texts"].update(self._texts(outputs.generated), references)
        metrics["perplexity"].update(outputs.logits.double().sum(1), _tokens(batch))

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """One number each."""
        found = metrics["texts"].compute() | {"perplexity": metrics["perplexity"].compute()}
        return {name: float(value) for name, value in found.items()}

    @property
    def headlines(self) -> list[str]:
        """All of them."""
        return self.metric_names()

    @property
    def answer_columns(self) -> list[str]:
        """The text, and the mean log-probability of its tokens."""
        return ["prediction", "score"]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The generated texts."""
        assert outputs.generated is not None
        assert outputs.generated_log_probs is not None
        count = (outputs.generated >= 0).sum(1)  # (B,) at least one
        scores = (outputs.generated_log_probs.sum(1) / count).tolist()
        texts = self._texts(outputs.generated)
        return [{"prediction": text, "score": score} for text, score in zip(texts, scores, strict=True)]

    def subjects(self, outputs: Outputs, name: str | None) -> list[Subject]:  # noqa: ARG002 - none
        """None yet."""
        return []

    def state(self) -> dict[str, Any]:
        """Nothing is fitted: prompt and lengths are in the config."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the other one generates, too; the words are the language model's."""
        return not state

    def _texts(self, tokens: Tensor) -> list[str]:
        """(B, T), -1 for padding -> B texts."""
        return [self.tokenizer.decode([token for token in row if token >= 0]) for row in tokens.tolist()]


def _tokens(batch: Batch) -> Tensor:
    """(B,) number of tokens of each row that are learned: of its answer, and of earlier ones in its conversation."""
    assert batch.target is not None
    count = (batch.target >= 0).sum(1)
    earlier = learned_tokens(batch)
    return count if earlier is None else count + (earlier >= 0).sum(1)
