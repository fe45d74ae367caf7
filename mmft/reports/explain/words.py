"""Combines token attributions into words, by the tokens' offsets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mmft.errors import UserError


class Word(NamedTuple):
    """A piece of the text as written."""

    text: str
    start: int  # its first character
    weight: float | None  # None if it was truncated


def words_of(text: str, tokenizer: Any, max_length: int, weights: Sequence[float]) -> list[Word]:
    """The words of a text.

    A word ends at whitespace, and where the tokenizer itself starts a new one (at punctuation, or in scripts without
    spaces). Special tokens are not words.

    Args:
        text: the row's.
        tokenizer: a fast tokenizer of transformers.
        max_length: tokens that the text was truncated to.
        weights: (L,) per token, special ones included; padding may follow.

    Raises:
        UserError: the tokenizer does not say where in the text its tokens are.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"mmft explain needs the place of each token in its text, which {type(tokenizer).__name__} does not tell. "
            "Choose a text encoder with a tokenizer.json."
        )
    clean = text.encode(errors="replace").decode()  # as tokenised
    encoded = tokenizer(clean, truncation=True, max_length=max_length, return_offsets_mapping=True)
    starts = [found.start() for found in re.finditer(r"\S+", clean)]
    spans: dict[tuple[int | None, int], list[float]] = {}  # start, end, weight
    for (start, end), number, weight in zip(encoded["offset_mapping"], encoded.word_ids(), weights, strict=False):
        start += len(clean[start:end]) - len(clean[start:end].lstrip())  # some tokens include the space before the word
        if number is None or start >= end:
            continue
        key = number, sum(first <= start for first in starts)
        known = spans.setdefault(key, [start, end, 0.0])
        known[1], known[2] = max(known[1], end), known[2] + weight
    words = [Word(text[int(a) : int(b)].strip(), int(a), weight) for a, b, weight in spans.values()]
    rest = int(max((b for _, b, _ in spans.values()), default=0))
    return words + [Word(found.group(), rest + found.start(), None) for found in re.finditer(r"\S+", text[rest:])]
