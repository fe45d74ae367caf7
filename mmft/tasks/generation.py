"""Generation: a language model writes a text about the image.

Legend: B batch, A answer tokens, T generated tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mmft.batch import Batch, Outputs
from mmft.config.schema.decoding import DecodingConfig
from mmft.config.schema.generation import GenerationConfig
from mmft.errors import UserError
from mmft.models.language.decoding import Decoding
from mmft.models.language.prompt_tokenizer import PromptTokenizer
from mmft.models.precision import at_least_float32
from mmft.models.sequences import learned_counts
from mmft.tasks.answer_texts import as_cell, cut, has_several, references_of
from mmft.tasks.choices import distinct_answers
from mmft.tasks.generative import GenerativeTask
from mmft.tasks.labels import shown, text_of
from mmft.tasks.metrics.answers import AnswerMetrics
from mmft.tasks.metrics.texts import says_nothing
from mmft.tasks.subject import Subject
from mmft.tasks.writing import Writing

log = logging.getLogger(__name__)
_LINES = "docs/language_models.md, Prompts of several lines"
_PADDING = -1  # in place of a token


class Generation(GenerativeTask):
    """Minus the log-probability of the answer's tokens, the end-of-text token included.

    Outputs are the log-probabilities of the answer tokens (B, A), 0 for padding, and of what else of a conversation is
    learned. The loss of a logical batch is divided by its number of learned tokens, each weighted as its row, or with
    `normalise=rows` by the weight of its rows.

    Metrics compare the generated text with all reference answers; `perplexity` is that of the first. They ignore sample
    weights. With `choices` there are those of classification, too.

    Args:
        prompt: what the model is asked, see `PromptTokenizer`.
        chat_template: `auto` or `none`.
        references: which of a row's reference answers is learned, the `first` or a `random` one in each epoch.
        max_answer_tokens: longest answer to learn from.
        normalise: `tokens` or `rows`.
        metrics: of `TextMetrics`; the first is the monitor.
        label_smoothing: of the training loss; perplexity, scores and the loss of other splits are without it.
        packing: as in `GenerativeTask`.
        validation_rows: number of validation rows that texts are written for; None for all.
        decoding: how texts are written; None for the defaults.
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
        normalise: str = "tokens",
        metrics: Sequence[str] = ("exact_match", "token_f1"),
        label_smoothing: float = 0.0,
        packing: bool = False,
        validation_rows: int | None = None,
        decoding: DecodingConfig | None = None,
    ) -> None:
        self._prompt, self._chat_template = prompt, chat_template
        self._draws = references == "random"
        self.max_answer_tokens, self.validation_rows = max_answer_tokens, validation_rows
        self._writing = Writing(decoding, max_answer_tokens)
        self._by_rows, self._metrics = normalise == "rows", list(metrics)
        self.label_smoothing, self.packing = label_smoothing, packing
        self.monitor = self._metrics[0]
        self._tokenizer: PromptTokenizer | None = None

    @property
    def tokenizer(self) -> PromptTokenizer:
        """The language model's, once it is known."""
        assert self._tokenizer is not None
        return self._tokenizer

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the longest text to write."""
        return self._writing.longest

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest text to learn or to write."""
        return max(self.max_answer_tokens, self.max_new_tokens)

    def decoding(self, vocabulary: int) -> Decoding:
        """From the config. Raises UserError if `task.pattern` cannot be applied."""
        return self._writing.decoding(self.tokenizer, vocabulary)

    def start_generation(self, tokenizer: Any) -> PromptTokenizer:
        """Receives the language model's tokenizer, and returns that of its prompts."""
        self._tokenizer = PromptTokenizer(tokenizer, self._prompt, self._chat_template)
        self._writing.start(self._tokenizer)
        return self._tokenizer

    @property
    def closing_report(self) -> Literal["modalities", "embeddings", "perplexity", "none"]:
        """Perplexity: no linear head writes texts."""
        return "perplexity"

    def fit(self, labels: Sequence[Any]) -> None:
        """Checks that there are answers, and collects them for `choices=labels`."""
        if all(label is None or not text_of(label).strip() for label in labels):
            raise UserError("data.columns: no training row has an answer (no label, or no last turn of the assistant)")
        if self._prompt is not None and (typed := next((one for one in (r"\n", r"\t") if one in self._prompt), None)):
            log.warning("task.prompt: %s is read as a backslash and a letter; for a line break see %s", typed, _LINES)
        self._writing.fit(labels, self.label_names)
        if self._draws and not any(map(has_several, labels)):
            log.warning("task.references=random changes nothing: no training row has several answers")
        of_squad = [name for name in self._metrics if name in ("exact_match", "token_f1")]
        empty = [name for name in distinct_answers(labels, self.label_names) if says_nothing(name)] if of_squad else []
        if empty:
            log.warning(
                "task.metrics: of the answers %s nothing is left in SQuAD's form, without articles and punctuation, so "
                "that %s would call an empty text right. anls compares all of a text, and so does task.choices=labels",
                shown(empty),
                " and ".join(of_squad),
            )

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
        return as_cell(self.references_of(label))

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Log-probabilities (B, A) -> () minus their sum, each weighted as its row."""
        found = at_least_float32(outputs.logits).sum(1)  # (B,)
        if self._by_rows:
            found = found / learned_counts(batch).clamp_min(1)
        return -(found * batch.weight.to(found.dtype)).sum()

    def normaliser(self, batch: Batch) -> Tensor:
        """() float64 the weighted number of answer tokens, or of rows."""
        weight = batch.weight.double()
        return weight.sum() if self._by_rows else (weight * learned_counts(batch)).sum()

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """There is no text that suits every row."""
        raise NotImplementedError("task=generation has no constant answer")

    def metrics(self) -> MetricCollection:
        """Those of the config, perplexity, and those of the choices."""
        return AnswerMetrics(self._metrics, self._writing.choices)

    def metric_names(self) -> list[str]:
        """The names of `scalars`."""
        own = [*self._metrics, "perplexity"]
        return own if self._writing.choices is None else [*own, *self._writing.choices.metric_names()]

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds log-probabilities, and the answers of the rows that have one."""
        assert isinstance(metrics, AnswerMetrics)
        assert batch.target is not None
        assert outputs.generated is not None
        metrics.add(*self.learned(outputs, batch))
        written = (outputs.generated >= 0).any(1)  # (B,) else no text was asked for
        references = batch.references or [[text] for text in self._texts(batch.target)]
        metrics.add_answers(
            self._cut(self._texts(outputs.generated[written])),
            list(compress(references, written.tolist())),
            None if outputs.choices is None else outputs.choices[written],
            batch.target[written],
        )

    def learned(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B,) float64 the sum of the log-probabilities of each row's answer tokens, and (B,) their number."""
        return outputs.logits.double().sum(1), learned_counts(batch)

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """One number each."""
        return cast("AnswerMetrics", metrics).scalars()

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:
        """The confusion matrix of the choices."""
        return cast("AnswerMetrics", metrics).tables()

    @property
    def headlines(self) -> list[str]:
        """Those of the texts, and of the choices the accuracy."""
        return [*self._metrics, "perplexity", *(["accuracy"] if self._writing.choices else [])]

    @property
    def answer_columns(self) -> list[str]:
        """The text and the mean log-probability of its tokens; with choices as classification."""
        return ["prediction", "score"] if self._writing.choices is None else self._writing.choices.answer_columns

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The generated texts, or the likeliest of the choices."""
        if self._writing.choices is not None:
            assert outputs.choices is not None
            return self._writing.choices.answers(outputs.choices)
        assert outputs.generated is not None
        assert outputs.generated_log_probs is not None
        count = (outputs.generated >= 0).sum(1)  # (B,) at least one
        scores = (outputs.generated_log_probs.sum(1) / count).tolist()
        texts = self._texts(outputs.generated)
        self._writing.tell_cut(outputs.generated, texts, self.tokenizer.eos_token_id)
        texts = self._cut(texts)
        return [{"prediction": text, "score": score} for text, score in zip(texts, scores, strict=True)]

    def to_explain(self, batch: Batch, outputs: Outputs, answer: Any) -> tuple[Batch, Outputs]:
        """The answer is also what was generated, (1, A) both."""
        try:
            target = torch.tensor([self.tokenizer.answer(self.label_names(answer)[0])], device=batch.row.device)
        except ValueError:
            assert outputs.generated is not None
            target = outputs.generated
        return replace(batch, target=target), outputs._replace(generated=target)

    def subjects(self, outputs: Outputs, name: str | None) -> list[Subject]:  # noqa: ARG002 - see `to_explain`
        """The log-probability of the answer, in nats."""
        assert outputs.generated is not None
        count = outputs.generated.shape[1]  # behind these are earlier answers of a conversation
        return [Subject(self._texts(outputs.generated)[0], lambda outputs: outputs.logits[:, :count].sum(1))]

    def state(self) -> dict[str, Any]:
        """The choices; the rest is in the config."""
        return self._writing.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the choices, unless the config lists others."""
        self._writing.load_state(state)

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the other one generates, too; the words are the language model's."""
        return set(state) <= {"labels"}

    def _texts(self, tokens: Tensor) -> list[str]:
        """(B, T), -1 for padding -> B texts."""
        return [self.tokenizer.decode([token for token in row if token >= 0]) for row in tokens.tolist()]

    def _cut(self, texts: list[str]) -> list[str]:
        """The texts up to a stop text."""
        return [cut(text, self._writing.options.stop) for text in texts]
