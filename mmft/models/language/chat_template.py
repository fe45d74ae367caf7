"""What a language model's chat template writes around the turns of a conversation.

It is applied to marks in place of the turns' texts, once for each sequence of roles and place of the image, so that a
row's own words can be tokenised apart and cannot change it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from mmft.errors import first_line

IMAGE_TEXT = "<mmft:image>"
"""Stands for the image in texts of templates."""
_SPACE = "\u2003"
"""A space, as `str.strip` has it, that no template writes by itself."""


class Shape(NamedTuple):
    """A turn without its words."""

    role: str
    images: tuple[bool, ...] = (False,)  # of each of its pieces, True = the image, else a text


class _Applied(NamedTuple):
    """A template of turns: what stands around their texts, and which spaces beside these it drops."""

    around: list[str]
    trims: list[Callable[[str], str]]


class ChatTemplate:
    """The template of a tokenizer, or none: turns on lines of their own, with the end-of-text token behind answers.

    Args:
        tokenizer: of a language model. If it has a method `written` (`mmft.models.whole.tokenizer.ImageTokenizer`),
            that writes turns with an image.
        own: whether to use its template; without one, or if it has none, turns are lines.
    """

    def __init__(self, tokenizer: Any, own: bool = True) -> None:
        self._tokenizer = tokenizer
        self.text: str | None = (tokenizer.chat_template or None) if own else None
        self._known: dict[tuple[Shape, ...], _Applied] = {}

    def around(self, turns: Sequence[Shape]) -> list[str]:
        """What stands before the turns' first text, between texts, and behind the last, up to where an answer begins.

        The place of the image is `IMAGE_TEXT` in one of these.

        Args:
            turns: without their words. If the last one is the assistant's, no answer is asked for.

        Raises:
            ValueError: the template cannot be applied to such turns.
        """
        return self._of(turns).around

    def trims(self, turns: Sequence[Shape]) -> list[Callable[[str], str]]:
        """What the template does with spaces in front of each text of the turns and behind it: Gemma 3's drops them.

        Raises:
            ValueError: the template cannot be applied to such turns.
        """
        return self._of(turns).trims

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

    def _of(self, turns: Sequence[Shape]) -> _Applied:
        key = tuple(turns)
        if key not in self._known:
            around = self._applied(key)
            self._known[key] = _Applied(around, _trims(around, self._applied(key, _SPACE)))
        return self._known[key]

    def _applied(self, shapes: tuple[Shape, ...], space: str = "") -> list[str]:
        """What is written around the texts, each with `space` on both of its sides."""
        marks: list[str] = []
        turns = []
        for role, images in shapes:
            content = ""
            for is_image in images:
                if not is_image:
                    marks.append(f"<mmft:{len(marks)}>")
                content += IMAGE_TEXT if is_image else f"{space}{marks[-1]}{space}"
            turns.append({"role": role, "content": content})
        try:
            rest = self._rendered(turns)
        except Exception as error:  # whatever a template raises
            raise ValueError(first_line(error)) from error
        found = []
        for mark in marks:
            if rest.count(mark) != 1:
                raise ValueError("it does not repeat every turn once and in order.")
            before, _, rest = rest.partition(mark)
            found.append(before)
        return [*found, rest]

    def _rendered(self, turns: Sequence[dict[str, str]]) -> str:
        """The turns in the template, or as lines."""
        whole: str | Sequence[dict[str, str]] = turns
        if self.text is None:
            ends = {"assistant": self._tokenizer.eos_token + "\n"}
            whole = "".join(turn["content"] + ends.get(turn["role"], "\n") for turn in turns)
        if hasattr(self._tokenizer, "written") and any(IMAGE_TEXT in turn["content"] for turn in turns):
            return str(self._tokenizer.written(whole, IMAGE_TEXT))
        if isinstance(whole, str):
            return whole
        asked = turns[-1]["role"] != "assistant"
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asked))


def _trims(around: Sequence[str], spaced: Sequence[str]) -> list[Callable[[str], str]]:
    """From what stands around texts without spaces, and around texts with one on each of their sides."""
    if [text.strip(_SPACE) for text in spaced] != [*around]:
        return [str] * (len(around) - 1)
    kinds: dict[tuple[bool, bool], Callable[[str], str]]
    kinds = {(True, True): str, (True, False): str.rstrip, (False, True): str.lstrip, (False, False): str.strip}
    return [kinds[before.endswith(_SPACE), behind.startswith(_SPACE)] for before, behind in itertools.pairwise(spaced)]
