"""How texts are written: what transformers' `generate` is given beside the prompts.

Legend: B batch, L generated tokens so far, T generated tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mmft.config.schema.decoding import DecodingConfig
from mmft.models.language.constrained import Constraint
from mmft.models.language.sampling import Processor, Sampling
from mmft.models.precision import at_least_float32


def decoding_options(config: DecodingConfig) -> DecodingConfig:
    """The keys of decoding alone, of a task that has others, too."""
    return DecodingConfig(**{f.name: getattr(config, f.name) for f in fields(DecodingConfig)})


@dataclass(frozen=True)
class Decoding:
    """How texts are written.

    Attributes:
        options: as in the config; `max_new_tokens` is given.
        constraint: what may be written; None for anything.
        choices: token ids of the answers to choose from; empty if texts are written.
    """

    options: DecodingConfig
    constraint: Constraint | None = None
    choices: Sequence[Sequence[int]] = ()

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the longest text."""
        assert self.options.max_new_tokens is not None
        return self.options.max_new_tokens

    def processors(self, rows: Tensor) -> list[Processor]:
        """What changes the scores of the next token, in order; `rows` (B,) are the numbers that sampling depends on."""
        from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

        options = self.options
        found: list[Processor] = []
        if options.repetition_penalty != 1:
            found.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.no_repeat_ngram_size is not None:
            found.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
        if self.constraint is not None:
            found.append(self.constraint)
        if options.temperature:
            found.append(Sampling(options, rows))
        return found


class OwnLogProbs:
    """A processor, the first, that notes the log-probability of each token under the model's own distribution.

    Which token was taken shows in the call after it; call `of` at the end.
    """

    def __init__(self) -> None:
        self._scores: Tensor | None = None  # (B, V) of the next token
        self._found: list[Tensor] = []  # (B,) each

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns the scores (B, V) as they are."""
        self._note(input_ids)
        self._scores = at_least_float32(scores)
        return scores

    def of(self, tokens: Tensor) -> Tensor:
        """(B, T) of all generated tokens (B, T)."""
        if len(self._found) < tokens.shape[1]:
            self._note(tokens[:, : len(self._found) + 1])
        return torch.stack(self._found[: tokens.shape[1]], dim=1)

    def _note(self, tokens: Tensor) -> None:
        if self._scores is not None:
            chosen = self._scores.gather(1, tokens[:, -1:]).squeeze(1)
            self._found.append(chosen - self._scores.logsumexp(-1))


class StopTexts:
    """A stopping criterion of transformers: a row ends as soon as its text has one of the stop texts in it.

    Args:
        texts: the stop texts.
        tokenizer: the language model's own.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Any) -> None:
        self._texts, self._tokenizer = list(texts), tokenizer

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        """(B, L) -> (B,) bool, True = ended."""
        return torch.tensor([self.found_in(row) for row in input_ids.tolist()], device=input_ids.device)

    def found_in(self, tokens: Sequence[int]) -> bool:
        """Whether the tokens' text has a stop text in it."""
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return any(stop in text for stop in self._texts)

    def length(self, tokens: Sequence[int]) -> int:
        """How many of a row's tokens there are up to the first stop text, all of it included; all without one."""
        if not self.found_in(tokens):
            return len(tokens)
        return next(n for n in range(1, len(tokens) + 1) if self.found_in(tokens[:n]))
