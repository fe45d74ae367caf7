"""Generation that can write nothing but answers of a list, or texts that match a regular expression.

Both constraints are logits processors of transformers: `model.generate(..., logits_processor=[AnswerList(...)])`. They
know a row by its tokens alone, so that beams, sampling and any batch work.

Legend: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmft.errors import UserError


class Constraint(ABC):
    """What may follow the tokens that a row has generated.

    Args:
        end: the end-of-text token; what follows it is not looked at.
        prompt_length: tokens in front of what is generated; 0 where prompts are given as embeddings.
    """

    def __init__(self, end: int, prompt_length: int) -> None:
        self._end, self._prompt_length = end, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, L) tokens and (B, V) scores -> (B, V), minus infinity for tokens that are not allowed."""
        generated: list[list[int]] = input_ids[:, self._prompt_length :].tolist()
        rows = [row for row, tokens in enumerate(generated) if self._end not in tokens]
        scores = scores.clone()
        for row in rows:
            allowed = self.allowed(generated[row], scores.shape[1]).to(scores.device)
            scores[row].masked_fill_(~allowed, -torch.inf)
        return scores

    @abstractmethod
    def allowed(self, generated: Sequence[int], vocabulary: int) -> Tensor:
        """(V,) bool, True for the tokens that may come next; at least one.

        Nothing but the end for tokens that were not allowed, as beams have that are already lost.
        """

    @staticmethod
    def _only(tokens: list[int], vocabulary: int) -> Tensor:
        """(V,) bool, True for these tokens."""
        found = torch.zeros(vocabulary, dtype=torch.bool)
        found[tokens] = True
        return found


class AnswerList(Constraint):
    """One of a list of answers.

    Args:
        answers: token ids of each, the end-of-text token included.
        prompt_length: as in `Constraint`.

    Raises:
        ValueError: no answer, or answers that do not end with the same token.

    Attributes:
        longest: tokens of the longest answer, which `max_new_tokens` must allow.
    """

    def __init__(self, answers: Sequence[Sequence[int]], prompt_length: int = 0) -> None:
        ends = {answer[-1] for answer in answers}
        if len(ends) != 1:
            raise ValueError(f"{len(answers)} answers that end with {len(ends)} different tokens")
        super().__init__(ends.pop(), prompt_length)
        self.longest = max(map(len, answers))
        self._trie: dict[int, Any] = {}  # token -> the same for what follows it
        for answer in answers:
            node = self._trie
            for token in answer:
                node = node.setdefault(token, {})

    def allowed(self, generated: Sequence[int], vocabulary: int) -> Tensor:
        """Tokens with which an answer goes on."""
        node = self._trie
        for token in generated:
            if token not in node:
                return self._only([self._end], vocabulary)
            node = node[token]
        return self._only(list(node), vocabulary)


class Expression(Constraint):
    """Texts that match a regular expression as a whole, with or without a space in front.

    llguidance turns tokens into bytes and bytes into states. A text that is cut by `max_new_tokens` is only the
    beginning of a match.

    Args:
        pattern: in the syntax of Rust's regex: without look-around, back references and anchors.
        tokenizer: the model's, a fast one of transformers.
        vocabulary: V of the model, which may be larger than the tokenizer's.
        key: of the config, for messages.
        end: what ends a text; None for the tokenizer's end-of-text token.
        prompt_length: as in `Constraint`.

    Raises:
        UserError: the package is missing, the tokenizer is not a fast one, or the pattern is wrong.
    """

    def __init__(
        self, pattern: str, tokenizer: Any, vocabulary: int, key: str, end: int | None = None, prompt_length: int = 0
    ) -> None:
        end = tokenizer.eos_token_id if end is None else end
        super().__init__(end, prompt_length)
        if importlib.util.find_spec("llguidance") is None:
            raise UserError(f"{key} needs llguidance, which is not installed. Type: pip install 'mmft[constrained]'")
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        if not tokenizer.is_fast:
            raise UserError(f"{key} needs a fast tokenizer (a file tokenizer.json), which this model does not have")
        grammar = LLMatcher.grammar_from_regex(f" ?(?:{pattern})")
        tokens = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=end)
        if message := LLMatcher.validate_grammar(grammar, tokens):
            raise UserError(
                f"{key}={pattern} cannot be generated: {_reason(message)}. The whole text is matched; look-around, "
                "back references and the anchors ^ and $ are not supported"
            )
        self._matcher = LLMatcher(tokens, grammar, log_level=0)

    def allowed(self, generated: Sequence[int], vocabulary: int) -> Tensor:
        """Tokens with which a match goes on."""
        self._matcher.reset()
        if self._matcher.try_consume_tokens(list(generated)) < len(generated):
            return self._only([self._end], vocabulary)
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        return torch.from_numpy(bits[:vocabulary].astype(bool))


def _reason(message: str) -> str:
    """What is wrong with a pattern, from a message of several lines with the pattern and marks below it."""
    first, *others = message.splitlines()
    told = (line.removeprefix("error: ") for line in others if line.startswith("error: "))
    return next(told, first.rpartition("(in regex): ")[2].partition(";")[0])
