"""Methods of choosing a few rows that stand for all, by their features.

Each chooses one row after the other and never compares all rows with all. Legend: R rows, D width of the features,
K rows to choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

Rows = npt.NDArray[np.int64]
Draws = npt.NDArray[np.float64]
Method = Callable[[Tensor, int, Draws], Rows]
"""Features (R, D), K of at most R, and a random number per row (R,) -> (K,) different rows, in the order chosen."""

_COVERED = 5_000  # rows that `facility_location` covers; more hardly change its choice
_CANDIDATES = 256  # rows that it compares in each step, at least
_MISSED = 0.1  # probability that the candidates of a step have none of the best K rows
_BLOCK = 2**24  # distances that are computed at once


def random(features: Tensor, count: int, draws: Draws) -> Rows:  # noqa: ARG001 - looks at nothing
    """The rows with the smallest numbers."""
    return np.argsort(draws, kind="stable")[:count]


def k_center(features: Tensor, count: int, draws: Draws) -> Rows:
    """Greedy k-center (Sener and Savarese 2018): after a random row, each time the one farthest from those chosen.

    The distance from any row to the nearest one chosen is at most twice the smallest possible.
    """
    lengths = features.square().sum(1)
    nearest = torch.full_like(lengths, math.inf)
    chosen = [int(draws.argmin())]
    while True:
        last = chosen[-1]
        nearest = torch.minimum(nearest, lengths + lengths[last] - 2 * (features @ features[last]))
        nearest[last] = -math.inf  # not again, not even among equal rows
        if len(chosen) == count:
            return np.array(chosen)
        chosen.append(int(nearest.argmax()))


def herding(features: Tensor, count: int, draws: Draws) -> Rows:  # noqa: ARG001 - nothing is drawn
    """Herding (Welling 2009): each time the row that brings the mean of those chosen closest to the mean of all."""
    lengths, mean = features.square().sum(1), features.mean(0)
    missing = mean.clone()  # of the sum of those chosen, to be that of as many means
    chosen: list[int] = []
    while len(chosen) < count:
        costs = lengths - 2 * (features @ missing)
        costs[chosen] = math.inf
        chosen.append(int(costs.argmin()))
        missing += mean - features[chosen[-1]]
    return np.array(chosen)


def facility_location(features: Tensor, count: int, draws: Draws) -> Rows:
    """Each time the row that most reduces the mean squared distance of all rows to the nearest one chosen.

    This greedily maximises a submodular function, that of facility location and k-medoids, up to 1 - 1/e of the best.
    Of many rows, each step compares some in random order (Mirzasoleiman et al. 2015, arXiv 1409.7938), by a random
    sample of the rows to cover.
    """
    order = np.argsort(draws, kind="stable")
    covered = features[torch.from_numpy(order[:_COVERED].copy())]
    nearest = covered.new_full((len(covered),), 4 * float(features.square().sum(1).max()) + 1)
    size = max(_CANDIDATES, math.ceil(len(order) / count * math.log(1 / _MISSED)))
    waiting = list(order)
    chosen: list[int] = []
    while len(chosen) < count:
        candidates = waiting[:size]
        squares = squared_distances(features[candidates], covered)
        best = int(torch.minimum(squares, nearest).mean(1).argmin())
        nearest = torch.minimum(nearest, squares[best])
        chosen.append(candidates.pop(best))
        waiting = waiting[size:] + candidates
    return np.array(chosen)


METHODS: dict[str, Method] = {
    "random": random,
    "k_center": k_center,
    "herding": herding,
    "coreset": facility_location,
}
"""The methods by the names that `data.subset` has for them."""


def shares(classes: Rows, count: int) -> dict[int, int]:
    """How many rows to choose of each class: proportionally, and at least one if `count` allows.

    Args:
        classes: (R,) of each row.
        count: of all classes together, at most R.
    """
    numbers, sizes = np.unique(classes, return_counts=True)
    places = np.concatenate([np.arange(size) / size for size in sizes])
    of_place = np.repeat(numbers, sizes)[np.argsort(places, kind="stable")[:count]]
    return {int(number): int((of_place == number).sum()) for number in numbers}


def choose(method: str, features: Tensor, classes: Rows, count: int, draws: Draws) -> Rows:
    """Chooses rows of every class by itself.

    Args:
        method: one of `METHODS`.
        features: (R, D).
        classes: (R,) of each row.
        count: of all classes together, at most R.
        draws: (R,) random numbers in [0, 1), all that is random about the choice.

    Returns:
        (count,) rows, ascending.
    """
    found = []
    for number, share in shares(classes, count).items():
        own = np.flatnonzero(classes == number)
        if share:
            found.append(own[METHODS[method](features[torch.from_numpy(own)], share, draws[own])])
    return np.sort(np.concatenate(found))


def covering_radius(features: Tensor, classes: Rows, chosen: Rows) -> float:
    """The largest distance of any row to the nearest one of its class that was chosen.

    Args:
        features: (R, D).
        classes: (R,) of each row.
        chosen: (K,) rows.
    """
    largest = 0.0
    for number in np.unique(classes[chosen]):
        centres = features[torch.from_numpy(chosen[classes[chosen] == number])]
        own = features[torch.from_numpy(np.flatnonzero(classes == number))]
        for block in own.split(max(1, _BLOCK // len(centres))):
            largest = max(largest, float(squared_distances(block, centres).amin(1).max()))
    return math.sqrt(largest)


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """(N, D) and (M, D) -> (N, M), computed by one product of matrices."""
    products = one @ other.T
    return (one.square().sum(1)[:, None] + other.square().sum(1) - 2 * products).clamp_min_(0)


def joined(modalities: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Features that weigh modalities alike: each centred and of unit length, zeros where a row lacks it.

    Args:
        modalities: values (R, D), and whether each row has it (R,) bool.

    Returns:
        (R, sum of D) float32.
    """
    parts = []
    for values, there in modalities:
        part = torch.zeros(values.shape)
        own = values[there].float()
        part[there] = normalize(own - own.mean(0))
        parts.append(part)
    return torch.cat(parts, 1)
