"""Generation: a language model writes a text about the image.

Legend: B batch, A answer tokens, T generated tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from mmft.batch import Batch, Outputs
from mmft.config.schema.task import GenerationConfig
from mmft.errors import UserError
from mmft.models.precision import at_least_float32
from mmft.models.prompt_tokenizer import PromptTokenizer
from mmft.tasks.answers import normalised
from mmft.tasks.base import Subject
from mmft.tasks.generative import GenerativeTask
from mmft.tasks.labels import text_of

_PADDING = -1  # in place of a token


class Generation(GenerativeTask):
    """Minus the log-probability of the answer's tokens, the end-of-text token included.

    Outputs are the log-probabilities of the answer tokens (B, A), 0 for padding. The loss of a logical batch is divided
    by its number of answer tokens, each weighted as its row, or with `normalise=rows` by the weight of its rows.

    Metrics compare the generated text with the answer, both normalised as in the VQA evaluation; `perplexity` is that
    of the answers. They ignore sample weights.

    Args:
        prompt: what the model is asked, see `PromptTokenizer`.
        chat_template: `auto` or `none`.
        max_answer_tokens: longest answer to learn from.
        max_new_tokens: longest text to generate; None for the same.
        normalise: `tokens` or `rows`.
    """

    facts = GenerationConfig
    monitor = "exact_match"
    constant = "none"
    width = 0

    def __init__(
        self,
        prompt: str | None = None,
        chat_template: Literal["auto", "none"] = "auto",
        max_answer_tokens: int = 64,
        max_new_tokens: int | None = None,
        normalise: str = "tokens",
    ) -> None:
        self._prompt, self._chat_template = prompt, chat_template
        self.max_answer_tokens = max_answer_tokens
        self._max_new_tokens = max_new_tokens or max_answer_tokens
        self._by_rows = normalise == "rows"
        self._tokenizer: PromptTokenizer | None = None

    @property
    def tokenizer(self) -> PromptTokenizer:
        """The language model's, once it is known."""
        assert self._tokenizer is not None
        return self._tokenizer

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
        if not any(_is_text(label) for label in labels):
            raise UserError("data.columns.label: no training row has an answer")

    def encode(self, label: Any) -> list[int]:
        """(max_answer_tokens,) the answer's tokens and the end-of-text token, padded with -1."""
        ids = self.tokenizer.answer(self.label_names(label)[0])
        if len(ids) > self.max_answer_tokens:
            raise ValueError(
                f"the answer has {len(ids)} tokens, more than task.max_answer_tokens={self.max_answer_tokens}"
            )
        return ids + [_PADDING] * (self.max_answer_tokens - len(ids))

    def empty_target(self) -> Tensor:
        """(max_answer_tokens,) int64, all padding."""
        return torch.full((self.max_answer_tokens,), _PADDING)

    def label_names(self, label: Any) -> list[str]:
        """The answer."""
        if not _is_text(label):
            raise ValueError("no answer")
        return [text_of(label).strip()]

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
        """Exact match, F1 of words, perplexity."""
        every: dict[str, Metric | MetricCollection] = {name: _Ratio() for name in _OF_TEXTS}
        return MetricCollection(every | {"perplexity": _Perplexity()}, compute_groups=False)

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds generated texts and log-probabilities."""
        assert batch.target is not None
        assert outputs.generated is not None
        pairs = list(zip(self._texts(outputs.generated), self._texts(batch.target), strict=True))
        ones = torch.ones(len(pairs), dtype=torch.float64)
        for name, score in _OF_TEXTS.items():
            metrics[name].update(torch.tensor([score(*pair) for pair in pairs], dtype=torch.float64), ones)
        metrics["perplexity"].update(-outputs.logits.double().sum(1).cpu(), _tokens(batch).double().cpu())

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """One number each."""
        return {name: float(value) for name, value in metrics.compute().items()}

    @property
    def headlines(self) -> list[str]:
        """All of them."""
        return ["exact_match", "token_f1", "perplexity"]

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


def exact_match(found: str, answer: str) -> float:
    """1 if both texts are the same once normalised, else 0."""
    return float(normalised(found) == normalised(answer))


def token_f1(found: str, answer: str) -> float:
    """The F1 of the words of both texts once normalised, as in SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250)."""
    one, other = normalised(found).split(), normalised(answer).split()
    common = sum((Counter(one) & Counter(other)).values())
    if not one or not other:
        return float(one == other)
    return 2 * common / (len(one) + len(other))


_OF_TEXTS = {"exact_match": exact_match, "token_f1": token_f1}


def _tokens(batch: Batch) -> Tensor:
    """(B,) number of answer tokens of each row."""
    assert batch.target is not None
    return (batch.target >= 0).sum(1)


def _is_text(label: Any) -> bool:
    return label is not None and bool(text_of(label).strip())


class _Ratio(Metric):
    """The sum of values over that of their counts. Stores all rows, so that rounding does not depend on the ranks."""

    values: list[Tensor]
    counts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")
        self.add_state("counts", [], dist_reduce_fx="cat")

    def update(self, values: Tensor, counts: Tensor) -> None:
        """Adds rows (B,) float64 each."""
        self.values.append(values)
        self.counts.append(counts)

    def compute(self) -> Tensor:
        """() the ratio."""
        return torch.cat(self.values).sum() / torch.cat(self.counts).sum()


class _Perplexity(_Ratio):
    """The exponential of the mean negative log-probability of a token."""

    def compute(self) -> Tensor:
        """() 1 for certainty."""
        return super().compute().exp()
