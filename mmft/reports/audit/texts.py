"""Finds texts that are the same or nearly the same.

A text is represented by the set of its three-letter pieces; the likeness of two sets is the share of pieces that they
have in common (Jaccard). Pairs are found by MinHash with banding (Broder 1997; Leskovec et al., Mining of Massive
Datasets, chapter 3) and then compared exactly: at a likeness of 0.8 one pair in twenty million is missed.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

BANDS, ROWS = 32, 4  # of a signature: texts are compared if all rows of a band agree
_MOST = 64  # texts of a bucket to compare each text with
_PIECE = 3


def normalised(text: str | None) -> str:
    """The text without case, punctuation and repeated whitespace, accents spelled one way; empty for None."""
    words = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text or "").casefold())
    return words.strip()


def pieces(text: str) -> frozenset[str]:
    """The three-letter pieces of a normalised text, padded with a space at both ends."""
    padded = f" {text} "
    return frozenset(padded[at : at + _PIECE] for at in range(max(1, len(padded) - _PIECE + 1)))


def likeness(one: str, other: str) -> float:
    """The share of pieces that two normalised texts have in common, 0 to 1."""
    a, b = pieces(one), pieces(other)
    return len(a & b) / len(a | b)


def nearest_texts(texts: Sequence[str], others: Sequence[str], least: float) -> list[tuple[int, int, float]]:
    """The most similar text of another split for each text, if it is similar enough but not the same.

    Args:
        texts: normalised; empty ones are skipped.
        others: normalised.
        least: minimum likeness, above 0 and at most 1.

    Returns:
        (position, position in others, likeness), by highest likeness, then first position.
    """
    first = _first_places(others)
    known = list(first)
    buckets: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(BANDS)]
    for number, signature in enumerate(_signatures(known)):
        for bucket, key in zip(buckets, _keys(signature), strict=True):
            if len(bucket[key]) < _MOST:
                bucket[key].append(number)
    places = _first_places(texts)
    mine = [text for text in places if text not in first]
    nearest: dict[str, tuple[int, float]] = {}
    for text, signature in zip(mine, _signatures(mine), strict=True):
        numbers = {n for bucket, key in zip(buckets, _keys(signature), strict=True) for n in bucket.get(key, ())}
        scored = [(likeness(text, known[number]), -number) for number in numbers]
        score, number = max(scored, default=(0.0, 0))
        if score >= least:
            nearest[text] = first[known[-number]], score
    return [(at, *nearest[text]) for at, text in enumerate(texts) if text in nearest]


def _first_places(texts: Sequence[str]) -> dict[str, int]:
    """The first position of each text that is not empty."""
    places: dict[str, int] = {}
    for at, text in enumerate(texts):
        if text:
            places.setdefault(text, at)
    return places


def _keys(signature: npt.NDArray[np.uint64]) -> list[bytes]:
    return [band.tobytes() for band in signature.reshape(BANDS, ROWS)]


def _signatures(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """(n, 128) uint64: the first piece of each text in each of 128 random orders of all pieces."""
    generator = np.random.Generator(np.random.Philox(0))
    factors = generator.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes: dict[str, int] = {}
    signatures = np.zeros((len(texts), BANDS * ROWS), np.uint64)
    for row, text in enumerate(texts):
        words = np.array([_hash(piece, hashes) for piece in pieces(text)], np.uint64)
        mixed = words[:, None] * factors[None]  # modulo 2**64
        signatures[row] = (mixed ^ (mixed >> np.uint64(32))).min(axis=0)
    return signatures


def _hash(piece: str, known: dict[str, int]) -> int:
    if piece not in known:
        digest = blake2b(piece.encode(errors="surrogatepass"), digest_size=8).digest()
        known[piece] = int.from_bytes(digest, "little")
    return known[piece]
