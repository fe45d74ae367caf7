"""Tokenises the texts of a split once, in the main process, into flat arrays that workers share.

Tokenising in forked workers can deadlock, and lists of token lists would be copied into each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CHUNK = 4096
"""Texts that go to the tokenizer at once: enough to keep its threads busy, little enough memory."""


class Tokens(NamedTuple):
    """Token ids of many texts, back to back; text i is `ids[offsets[i]:offsets[i + 1]]`.

    A missing text has no tokens. `cut` counts the texts that were longer than `max_length` tokens.
    """

    ids: npt.NDArray[np.int32]  # (sum of L,)
    offsets: npt.NDArray[np.int64]  # (texts + 1,)
    cut: int

    def of(self, position: int) -> npt.NDArray[np.int32]:
        """(L,) the tokens of one text."""
        return self.ids[self.offsets[position] : self.offsets[position + 1]]


def tokenize(texts: Sequence[str | None], tokenizer: Any, max_length: int) -> Tokens:
    """Tokens of all texts, special tokens included.

    Args:
        texts: None for a missing text.
        tokenizer: a fast tokenizer of transformers.
        max_length: at most so many tokens, special ones included; longer texts are cut.
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
    """(texts,) how many tokens each text has when nothing is cut, special ones included; 0: there is no text."""
    tokens = tokenize(texts, tokenizer, max_length=np.iinfo(np.int32).max)
    return np.diff(tokens.offsets)


def empty_text(tokenizer: Any, max_length: int) -> npt.NDArray[np.int32]:
    """(L,) the tokens of "", at least one: what stands in for a missing text, for without a real token
    an attention row is all masked and its softmax is NaN.
    """
    ids = tokenize([""], tokenizer, max_length).ids
    return ids if len(ids) else np.array([pad_id(tokenizer)], dtype=np.int32)


def pad_id(tokenizer: Any) -> int:
    """The id that fills up a batch; any id will do where the tokenizer has none, since the mask decides."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def special_ids(tokenizer: Any) -> list[int]:
    """The ids that are no part of a text: what begins, ends, parts and fills texts. An unknown word is one, unless the
    tokenizer has the same id for both (CLIP's).
    """
    others = [token for name, token in tokenizer.special_tokens_map.items() if name != "unk_token"]
    word = None if tokenizer.unk_token in others else tokenizer.unk_token_id
    return sorted(set(tokenizer.all_special_ids) - {word})


def identity_of(tokenizer: Any) -> bytes:
    """The same for two tokenizers that give the same tokens: vocabulary, rules and special tokens."""
    rules = tokenizer.backend_tokenizer
    rules.no_truncation()  # what the last call has left; each call says it anew
    rules.no_padding()
    return blake2b(rules.to_str().encode(), digest_size=16).digest()


def _encode(texts: list[str], tokenizer: Any, max_length: int) -> tuple[list[list[int]], int]:
    """The token ids of present texts, and how many texts were cut."""
    encoded = tokenizer(
        [_unicode(text) for text in texts],
        truncation=True,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    # The Rust tokenizer keeps what it cut off; asking the Python side for it would copy everything.
    return encoded["input_ids"], sum(bool(encoding.overflowing) for encoding in encoded.encodings)


def _unicode(text: str) -> str:
    """`text` with lone surrogates as question marks: the tokenizer would raise for them."""
    return text if text.isascii() else text.encode(errors="replace").decode()
