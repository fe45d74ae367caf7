"""Which answers people are asked to mark: a stratified sample, in which mistakes are more frequent than in the rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

MOST_DRAWN = 120
"""Rows of a sample. If all are marked, a share of all rows is known to about +/- 0.1 at worst."""


class Drawn(NamedTuple):
    """A row of the sample: its place, and the number of rows that it stands for."""

    at: int
    weight: float


def draw(strata: Sequence[Hashable], seed: int, most: int = MOST_DRAWN) -> list[Drawn]:
    """Draws rows without replacement, an equal number of each stratum as far as it has them, in random order.

    Args:
        strata: of every row.
        seed: of the draw.
        most: rows to draw in all.
    """
    generator = np.random.default_rng(seed)
    places: dict[Hashable, list[int]] = {}
    for at, stratum in enumerate(strata):
        places.setdefault(stratum, []).append(at)
    found = []
    for stratum, count in _shares({name: len(rows) for name, rows in places.items()}, most).items():
        rows = places[stratum]
        chosen = generator.choice(len(rows), count, replace=False).tolist()
        found += [Drawn(rows[one], len(rows) / count) for one in chosen]
    return [found[place] for place in generator.permutation(len(found)).tolist()]


def _shares(sizes: Mapping[Hashable, int], most: int) -> dict[Hashable, int]:
    """Rows to draw of each stratum; what a small one leaves goes to the larger ones."""
    shares, left = {}, most
    ordered = sorted(sizes.items(), key=lambda item: item[1])
    for done, (name, size) in enumerate(ordered):
        shares[name] = min(size, left // (len(ordered) - done))
        left -= shares[name]
    return {name: shares[name] for name in sizes if shares[name]}
