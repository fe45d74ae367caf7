"""Combines token attributions into words, by the tokens' offsets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from mmft.errors import UserError
from mmft.models.language.prompt_tokenizer import IMAGE_MARK, PromptTokenizer, learned


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


def own_tokens(ids: Sequence[int], empty: Sequence[int]) -> slice:
    """Where in a prompt the row's own words are: between what it begins and ends with like the prompt of no text."""
    most = min(len(ids), len(empty))
    first = next((at for at in range(most) if ids[at] != empty[at]), most)
    most -= first
    behind = next((at for at in range(most) if ids[-1 - at] != empty[-1 - at]), most)
    return slice(first, len(ids) - behind)


def words_of_prompt(text: str, tokenizer: PromptTokenizer, ids: Sequence[int], weights: Sequence[float]) -> list[Word]:
    """The words of a row's own text, or of its conversation with what stands between its turns, in a prompt.

    A word ends at whitespace, at special tokens and at the image; a token belongs to the word in which it ends.

    Args:
        text: the row's, of which words may have been cut off; "" for a conversation.
        tokenizer: of the prompt.
        ids: the prompt's tokens, without padding.
        weights: per token of the prompt; padding may follow.
    """
    place = own_tokens(ids, tokenizer.empty)
    words: list[Word] = []
    start = 0
    tokens = [learned(token) if token < IMAGE_MARK else token for token in ids[place]]
    for apart, group in groupby(zip(tokens, weights[place], strict=True), lambda one: stands_apart(one[0], tokenizer)):
        own, own_weights = zip(*group, strict=True)
        read = "" if apart else str(tokenizer.tokenizer.decode(own))
        found = [[match.start(), match.end(), 0.0] for match in re.finditer(r"\S+", read)]
        for count, weight in enumerate(own_weights, 1):
            end = len(str(tokenizer.tokenizer.decode(own[:count])).rstrip()) if found else 0
            word = next((word for word in found if end <= word[1]), None)
            if word is not None:
                word[2] += weight
        words += [Word(read[int(a) : int(b)], start + int(a), weight) for a, b, weight in found]
        start += len(read)
    rest = list(re.finditer(r"\S+", text))[len(words) :]
    return words + [Word(match.group(), match.start(), None) for match in rest]


def stands_apart(token: int, tokenizer: PromptTokenizer) -> bool:
    """Whether a token of a prompt is the image's mark or a special token, which a row's own words never have."""
    return token == IMAGE_MARK or max(token, learned(token)) in tokenizer.all_special_ids
