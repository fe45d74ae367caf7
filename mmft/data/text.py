"""Tokenises the texts of a split once, in the main process, into flat arrays that workers share.

Tokenising in forked workers can deadlock, and nested lists of tokens would be copied into each worker.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import blake2b
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmft.batch import Conversation
from mmft.errors import UserError

log = logging.getLogger(__name__)
_UNREADABLE, _HARDLY_READABLE = 0.9, 0.1  # shares of unknown tokens: refused, warned of

CHUNK = 4096
"""Texts per call of the tokenizer: enough to keep its threads busy, few enough for memory."""


class Tokens(NamedTuple):
    """Token ids of many texts, back to back; text i is `ids[offsets[i]:offsets[i + 1]]`.

    A missing text has no tokens. `cut` counts the texts truncated to `max_length` tokens. `problems` says by position
    why a conversation has no tokens.
    """

    ids: npt.NDArray[np.int32]  # (sum of L,)
    offsets: npt.NDArray[np.int64]  # (texts + 1,)
    cut: int
    problems: Mapping[int, str] = MappingProxyType({})

    def of(self, position: int) -> npt.NDArray[np.int32]:
        """(L,) the tokens of one text."""
        return self.ids[self.offsets[position] : self.offsets[position + 1]]


Texts = Sequence[str | None] | Sequence[Conversation | None]


def tokenize(texts: Texts, tokenizer: Any, max_length: int) -> Tokens:
    """Tokens of all texts, including special tokens.

    Args:
        texts: None for a missing text; conversations only with a tokenizer that takes them.
        tokenizer: a tokenizer of transformers.
        max_length: maximum number of tokens, including special ones; longer texts are truncated.
    """
    lengths = np.zeros(len(texts), dtype=np.int64)
    parts: list[npt.NDArray[np.int32]] = []
    cut = 0
    problems: dict[int, str] = {}
    present = [at for at, text in enumerate(texts) if text is not None]
    for first in range(0, len(present), CHUNK):
        places = present[first : first + CHUNK]
        ids, cut_here, wrong = _encode([texts[at] or "" for at in places], tokenizer, max_length)
        lengths[places] = [len(tokens) for tokens in ids]
        parts.append(np.fromiter(chain.from_iterable(ids), dtype=np.int32))
        cut += cut_here
        problems |= {places[at]: reason for at, reason in wrong.items()}
    flat = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
    return Tokens(flat, np.concatenate([[0], np.cumsum(lengths)]), cut, problems)


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


def check_readable(tokens: Tokens, tokenizer: Any) -> None:
    """Checks that a tokenizer knows the training texts, and logs a warning if it knows few of them.

    Raises:
        UserError: it knows next to nothing.
    """
    texts = int(np.count_nonzero(np.diff(tokens.offsets)))
    words = tokens.ids[~np.isin(tokens.ids, special_ids(tokenizer))]
    unknown = np.count_nonzero(words == tokenizer.unk_token_id) if tokenizer.unk_token_id is not None else 0
    share = unknown / len(words) if len(words) else float(texts > 0)
    if share >= _UNREADABLE:
        raise UserError(
            f"model.text_encoder.name: its tokenizer cannot read the training texts: {share:.0%} of their tokens are "
            "unknown to it. Copy the tokenizer's files from the original model into the folder, or choose an encoder "
            "for the language of the texts."
        )
    if share >= _HARDLY_READABLE:
        log.warning("%.0f %% of the tokens in the training texts are unknown to the tokenizer", 100 * share)


def identity_of(tokenizer: Any) -> bytes:
    """A hash of vocabulary, rules and special tokens, equal for tokenizers that produce the same tokens."""
    if not tokenizer.is_fast:
        parts = (type(tokenizer), tokenizer.name_or_path, sorted(tokenizer.get_vocab().items()))
        return blake2b(repr(parts).encode(errors="replace"), digest_size=16).digest()
    rules = tokenizer.backend_tokenizer
    rules.no_truncation()  # settings left by the last call; each call sets them again
    rules.no_padding()
    return blake2b(rules.to_str().encode(), digest_size=16).digest()


def _encode(
    texts: list[str | Conversation], tokenizer: Any, max_length: int
) -> tuple[list[list[int]], int, dict[int, str]]:
    """The token ids of the given texts, the number of truncated texts, and problems by position."""
    encode = partial(
        tokenizer,
        [_unicode(text) if isinstance(text, str) else text for text in texts],
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    encoded = encode(truncation=True, max_length=max_length)
    if not tokenizer.is_fast:
        problems = encoded.get("problems", {})
        lengths = enumerate(zip(encoded["input_ids"], encode()["input_ids"], strict=True))
        cut = sum(len(cut) < len(whole) for at, (cut, whole) in lengths if at not in problems)
        return encoded["input_ids"], cut, problems
    # The Rust tokenizer keeps the overflow; requesting it through the Python API would copy everything.
    return encoded["input_ids"], sum(bool(encoding.overflowing) for encoding in encoded.encodings), {}


def _unicode(text: str) -> str:
    """`text` with lone surrogates replaced by question marks, because the tokenizer rejects them."""
    return text if text.isascii() else text.encode(errors="replace").decode()
