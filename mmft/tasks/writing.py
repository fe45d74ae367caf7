"""How the answers of `task=generation` are written: by the options of the config, or chosen from a list."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

from torch import Tensor

from mmft.config.schema.decoding import DecodingConfig
from mmft.errors import UserError
from mmft.models.language.constrained import Constraint, Expression
from mmft.models.language.decoding import Decoding
from mmft.models.language.prompt_tokenizer import PromptTokenizer
from mmft.tasks.choices import Choices, distinct_answers

log = logging.getLogger(__name__)


class Writing:
    """The options, and the answers to choose from once they are known.

    Args:
        options: as in the config; None for the defaults.
        max_answer_tokens: longest answer to learn from, which is the longest to write unless the options say another.

    Attributes:
        options: the same.
        choices: the answers to choose from; None if any text may be written, or before `fit` with `choices=labels`.
    """

    def __init__(self, options: DecodingConfig | None, max_answer_tokens: int) -> None:
        self.options = options or DecodingConfig()
        self._longest_text = self.options.max_new_tokens or max_answer_tokens
        given = self.options.choices
        self.choices = Choices(given) if isinstance(given, list) else None
        self._cut_is_told = False

    @property
    def longest(self) -> int:
        """Tokens of the longest text to write."""
        return self._longest_text if self.choices is None else self.choices.longest

    def tell_cut(self, tokens: Tensor, texts: Sequence[str], end: int) -> None:
        """Warns once of texts that `max_new_tokens` ended.

        Args:
            tokens: (B, T) generated, -1 for padding.
            texts: of these, B.
            end: the end-of-text token.
        """
        if self._cut_is_told or tokens.shape[1] < self.longest:
            return
        last = tokens[:, self.longest - 1]  # (B,)
        for text in compress(texts, ((last >= 0) & (last != end)).tolist()):
            if not any(stop in text for stop in self.options.stop):
                self._cut_is_told = True
                unlike = "" if self.options.pattern is None else ", and does not match task.pattern"
                log.warning(
                    "task.max_new_tokens=%d ended the text %r%s; others may be cut, too. Type a larger one",
                    *(self.longest, text, unlike),
                )
                return

    def start(self, tokenizer: PromptTokenizer) -> None:
        """Receives the tokenizer. Raises UserError if two answers to choose from have the same tokens."""
        if self.choices is not None:
            self.choices.start(tokenizer)

    def decoding(self, tokenizer: PromptTokenizer, vocabulary: int) -> Decoding:
        """What the model needs; `vocabulary` is its own. Raises UserError if `task.pattern` cannot be applied."""
        options = replace(self.options, max_new_tokens=self.longest)
        if self.choices is not None:
            return Decoding(options, self.choices.constraint, self.choices.ids)
        constraint: Constraint | None = None
        if options.pattern is not None:
            end = tokenizer.eos_token_id
            constraint = Expression(options.pattern, tokenizer.plain, vocabulary, "task.pattern", end)
        return Decoding(options, constraint)

    def fit(self, labels: Sequence[Any], names_of: Callable[[Any], Sequence[str]]) -> None:
        """Collects the answers of the training rows for `choices=labels`, and checks those of a list.

        Args:
            labels: the table's values.
            names_of: a label's answers; raises ValueError for an unusable one.

        Raises:
            UserError: all rows have the same answer.
        """
        if self.options.choices is None:
            return
        answers = distinct_answers(labels, names_of)
        if self.choices is None:
            self.choices = Choices(list(answers))
        self.choices.check(answers)

    def state(self) -> dict[str, Any]:
        """The choices; the rest is in the config."""
        return {} if self.choices is None else {"labels": self.choices.labels}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores the choices, unless the config lists others. Raises UserError if they were not kept."""
        if self.options.choices != "labels":
            return
        if "labels" not in state:
            raise UserError(
                "task.choices=labels: the run kept no list of its answers, since it was not trained with this key. "
                "Type task.choices=[one,two]"
            )
        self.choices = Choices(list(state["labels"]))
