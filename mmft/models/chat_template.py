"""What a language model's chat template writes around the turns of a conversation.

It is applied to marks in place of the turns' texts, once for each sequence of roles, so that a row's own words can be
tokenised apart and cannot change it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from mmft.errors import first_line


class ChatTemplate:
    """The template of a tokenizer, or none: turns on lines of their own, with the end-of-text token behind answers.

    Args:
        tokenizer: of a language model.
        own: whether to use its template; without one, or if it has none, turns are lines.
    """

    def __init__(self, tokenizer: Any, own: bool = True) -> None:
        self._tokenizer = tokenizer
        self.text: str | None = (tokenizer.chat_template or None) if own else None
        self._known: dict[tuple[str, ...], list[str]] = {}

    def around(self, roles: Sequence[str]) -> list[str]:
        """(turns + 1) texts: before the first turn, between turns, and behind the last, up to where an answer begins.

        Args:
            roles: of the turns. If the last one is the assistant's, no answer is asked for.

        Raises:
            ValueError: the template cannot be applied to such turns.
        """
        key = tuple(roles)
        if key not in self._known:
            self._known[key] = self._lines(key) if self.text is None else self._applied(key)
        return self._known[key]

    @cached_property
    def special_tokens(self) -> re.Pattern[str]:
        """Matches the tokenizer's special tokens in a text."""
        every = {str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        every |= set(self._tokenizer.all_special_tokens)
        return re.compile("|".join(map(re.escape, sorted(every, key=len, reverse=True))) or "(?!)")

    def ending(self, after: str) -> str:
        """What the model has to write behind an answer: what `after` has up to its first special token; "" without."""
        found = self.special_tokens.search(after)
        return "" if found is None else after[: found.end()]

    def _applied(self, roles: tuple[str, ...]) -> list[str]:
        marks = [f"<mmft:{at}>" for at in range(len(roles))]
        turns = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        try:
            rest = str(
                self._tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=roles[-1] != "assistant"
                )
            )
        except Exception as error:  # whatever a template raises
            raise ValueError(first_line(error)) from error
        found = []
        for mark in marks:
            if rest.count(mark) != 1:
                raise ValueError("it does not repeat every turn once and in order.")
            before, _, rest = rest.partition(mark)
            found.append(before)
        return [*found, rest]

    def _lines(self, roles: tuple[str, ...]) -> list[str]:
        end = self._tokenizer.eos_token
        return ["", *((end if role == "assistant" else "") + "\n" for role in roles)]
