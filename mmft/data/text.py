"""Tokenises the texts of a split once, in the main process, into flat arrays that workers share.

Tokenising in forked workers can deadlock, and nested lists of tokens would be copied into each worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CHUNK = 4096
"""Texts per call of the tokenizer: enough to keep its threads busy, few enough for memory."""


class Tokens(NamedTuple):
    """Token ids of many texts, back to back; text i is `ids[offsets[i]:offsets[i + 1]]`.

    A missing text has no tokens. `cut` counts the texts truncated to `max_length` tokens.
    """

    ids: npt.NDArray[np.int32]  # (sum of L,)
    offsets: npt.NDArray[np.int64]  # (texts + 1,)
    cut: int

    def of(self, position: int) -> npt.NDArray[np.int32]:
        """(L,) the tokens of one text."""
        return self.ids[self.offsets[position] : self.offsets[position + 1]]


def tokenize(texts: Sequence[str | None], tokenizer: Any, max_length: int) -> Tokens:
    """Tokens of all texts, including special tokens.

    Args:
        texts: None for a missing text.
        tokenizer: a fast tokenizer of transformers.
        max_length: maximum number of tokens, including special ones; longer texts are truncated.
    """
    lengths = np.zeros(len(texts), dtype=np.int64)
    parts: list[npt.NDArray[np.int32]] = []
    cut = 0
    present = [at for at, text in enumerate(texts) if text is not None]
    for first in range(0, len(present), CHUNK):
        places = present[first : first + CHUNK]
        ids, cut_here = _encode([texts[at] or "" for at in places], tokenizer, max_length)
        lengths[places] = [len(tokens) for tokens in ids]
        parts.append(np.fromiter(chain.from_iterable(ids), dtype=np.int32))
        cut += cut_here
    flat = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
    return Tokens(flat, np.concatenate([[0], np.cumsum(lengths)]), cut)


def full_lengths(texts: Sequence[str | None], tokenizer: Any) -> npt.NDArray[np.int64]:
    """(texts,) number of tokens of each text without truncation, including special ones; 0 for a missing text."""
    tokens = tokenize(texts, tokenizer, max_length=np.iinfo(np.int32).max)
    return np.diff(tokens.offsets)


def empty_text(tokenizer: Any, max_length: int) -> npt.NDArray[np.int32]:
    """(L,) tokens of "", at least one, used for a missing text: fully masked attention would give NaN."""
    ids = tokenize([""], tokenizer, max_length).ids
    return ids if len(ids) else np.array([pad_id(tokenizer)], dtype=np.int32)


def pad_id(tokenizer: Any) -> int:
    """The padding id; any id works for a tokenizer without one, because padding is masked."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def special_ids(tokenizer: Any) -> list[int]:
    """Ids of start, end, separator, padding and similar tokens, which are not part of a text.

    The unknown token is part of a text, unless it shares its id with one of the others (CLIP).
    """
    others = [token for name, token in tokenizer.special_tokens_map.items() if name != "unk_token"]
    word = None if tokenizer.unk_token in others else tokenizer.unk_token_id
    return sorted(set(tokenizer.all_special_ids) - {word})


def identity_of(tokenizer: Any) -> bytes:
    """A hash of vocabulary, rules and special tokens, equal for tokenizers that produce the same tokens."""
    rules = tokenizer.backend_tokenizer
    rules.no_truncation()  # settings left by the last call; each call sets them again
    rules.no_padding()
    return blake2b(rules.to_str().encode(), digest_size=16).digest()


def _encode(texts: list[str], tokenizer: Any, max_length: int) -> tuple[list[list[int]], int]:
    """The token ids of the given texts, and the number of truncated texts."""
    encoded = tokenizer(
        [_unicode(text) for text in texts],
        truncation=True,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    # The Rust tokenizer keeps the overflow; requesting it through the Python API would copy everything.
    return encoded["input_ids"], sum(bool(encoding.overflowing) for encoding in encoded.encodings)


def _unicode(text: str) -> str:
    """`text` with lone surrogates replaced by question marks, because the tokenizer rejects them."""
    return text if text.isascii() else text.encode(errors="replace").decode()
