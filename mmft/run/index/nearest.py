"""The nearest of many stored vectors: exactly, or by a graph of neighbours.

Legend: R stored vectors, Q queries, D width, K neighbours, C candidates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmft.errors import UserError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_BLOCK = 1 << 15  # vectors compared at once
_SPARE = 32  # candidates beyond K, so that rounding in float32 does not decide which are the K nearest
_EXPANSION = 128  # vectors that the graph keeps in sight while it is searched; more find more and take longer
_DIGITS = 9  # similarities that are equal up to here are equal


def nearest(vectors: Floats, queries: Floats, count: int, graph: Any = None) -> tuple[Ints, Floats]:
    """The stored vectors nearest to each query, the nearest first; of equally near ones, the first stored.

    Args:
        vectors: (R, D) of length 1; may be memory-mapped.
        queries: (Q, D) of length 1.
        count: K, at most; fewer if R is smaller.
        graph: of the same vectors (see `made_graph`); None compares all of them.

    Returns:
        (Q, K) places in `vectors`, and their cosines.
    """
    wanted = min(count + _SPARE, len(vectors))
    if graph is None:
        candidates = _candidates(vectors, queries, wanted)
    else:
        graph.expansion_search = max(_EXPANSION, 2 * wanted)
        candidates = graph.search(queries, wanted).keys.reshape(len(queries), -1).astype(np.int64)
    return _ranked(vectors, queries, candidates, count)


def _candidates(vectors: Floats, queries: Floats, count: int) -> Ints:
    """(Q, C) places of the most similar vectors, in no order, by products in float32 of one block after another."""
    places = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK):
        found = queries @ vectors[start : start + _BLOCK].T  # (Q, B)
        taken = _largest(found, count)
        scores = np.concatenate([scores, np.take_along_axis(found, taken, axis=1)], axis=1)
        places = np.concatenate([places, taken + start], axis=1)
        kept = _largest(scores, count)
        scores, places = np.take_along_axis(scores, kept, axis=1), np.take_along_axis(places, kept, axis=1)
    return places


def _largest(scores: Floats, count: int) -> Ints:
    """(Q, C) places of the largest numbers of each line."""
    if scores.shape[1] <= count:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, scores.shape[1] - count, axis=1)[:, -count:]


def _ranked(vectors: Floats, queries: Floats, candidates: Ints, count: int) -> tuple[Ints, Floats]:
    """The best `count` candidates of each query by their similarity in float64."""
    found = []
    for query, places in zip(queries, candidates, strict=True):
        places = np.sort(places)
        score = (vectors[places].astype(np.float64) * query).sum(axis=1)
        order = np.argsort(-score.round(_DIGITS), kind="stable")[:count]
        found.append((places[order], score[order].astype(np.float32)))
    return np.stack([places for places, _ in found]), np.stack([score for _, score in found])


def made_graph(vectors: Floats, path: Path) -> None:
    """Writes a graph of neighbours (HNSW, arXiv 1603.09320) of the vectors (R, D) with usearch.

    Raises:
        UserError: usearch is not installed.
    """
    usearch = _usearch()
    graph = usearch.Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    for start in range(0, len(vectors), _BLOCK):
        block = np.ascontiguousarray(vectors[start : start + _BLOCK])
        graph.add(np.arange(start, start + len(block)), block)
    graph.save(str(path))


def opened_graph(path: Path) -> Any:
    """The graph of a file, memory-mapped. Raises as `made_graph`."""
    return _usearch().Index.restore(str(path), view=True)


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError:
        raise UserError(
            "kind=approximate needs the package usearch. Type pip install 'mmft[search]', or kind=exact"
        ) from None
    return usearch.index
