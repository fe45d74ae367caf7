"""How much of the exact ten nearest an approximate index finds, and what both cost.

    python tools/bench/index.py [--rows 100000] [--queries 200] [--out FOLDER]

Vectors are made like embeddings: 2,000 clusters of sizes by Zipf's law, directions whose variance falls with their
number (as a power of -0.5), cosines within a cluster of 0.75 at the median and between clusters of about 0. Queries are
further vectors of the same clusters. Seconds are processor time of this process, best of three.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmft.run.index.nearest import Floats, made_graph, nearest, opened_graph

WIDTH, CLUSTERS, SPREAD, TOP = 256, 2_000, 0.58, 10
_BLOCK = 1 << 16


def made(rows: int, path: Path, seed: int) -> Floats:
    """Writes vectors (rows, WIDTH) of length 1 to a file, and maps it."""
    fixed, drawn = np.random.default_rng(0), np.random.default_rng(seed)
    spectrum = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    centres = fixed.standard_normal((CLUSTERS, WIDTH), dtype=np.float32) * spectrum
    sizes = 1 / np.arange(1, CLUSTERS + 1)
    found = np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
    for start in range(0, rows, _BLOCK):
        count = min(_BLOCK, rows - start)
        clusters = drawn.choice(CLUSTERS, count, p=sizes / sizes.sum())
        noise = drawn.standard_normal((count, WIDTH), dtype=np.float32) * spectrum
        block = centres[clusters] + SPREAD * noise
        found[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    found.flush()
    mapped: Floats = np.load(path, mmap_mode="r")
    return mapped


def timed(work: Callable[[], Any], times: int = 3) -> tuple[Any, float]:
    """What the work returns, and its processor time, best of some."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def memory() -> float:
    """GB that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Prints a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--out", type=Path, help="folder for vectors and graph; default: a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = given.out or Path(temporary)
        vectors = made(given.rows, out / "vectors.npy", seed=1)
        queries = np.array(made(given.queries, out / "queries.npy", seed=2))
        (one, _), alone = timed(lambda: nearest(vectors, queries[:1], TOP))
        print(f"exact: {alone:.3f} s for a query, memory {memory():.2f} GB", flush=True)
        exact = np.concatenate([one, nearest(vectors, queries[1:], TOP)[0]])
        _, seconds = timed(lambda: made_graph(vectors, out / "graph.usearch"), times=1)
        print(f"graph: made in {seconds:.0f} s, {(out / 'graph.usearch').stat().st_size / 1e6:,.0f} MB", flush=True)
        graph = opened_graph(out / "graph.usearch")
        found, seconds = timed(lambda: np.concatenate([nearest(vectors, q[None], TOP, graph)[0] for q in queries]))
        same = [len(set(a) & set(b)) / TOP for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
        print(f"approximate: {1000 * seconds / len(queries):.2f} ms for a query")
        print(f"recall@10 {np.mean(same):.4f}, of the worst query {min(same):.1f}; memory {memory():.2f} GB")


if __name__ == "__main__":
    main()
