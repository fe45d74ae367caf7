"""What a row's image, text and group are known by, as whole numbers: which rows belong together.

Rows belong together that have the same image, the same text or the same group (`data.columns.group`). They are
never each other's negatives. An image is known by its path or its bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmft.batch import Pair

IDENTITY = slice(0, 3)
"""The columns of a target of pairs that say what image, text and group are known by; -1: there is none."""

LABEL = 3
"""The column behind them, in a target of a contrastive task: the label's number; -1: it has none."""
MATCH = 3
"""The same of a matching task: 1: image and text match, 0: they do not, -1: they do, since no label says otherwise."""


def identities(pair: Pair) -> list[int]:
    """(3,) the numbers of a row's image, text and group.

    Raises:
        ValueError: it lacks its image or its text, so that it is no pair.
    """
    for modality, given in (("image", pair.image), ("text", pair.text)):
        if given is None:
            raise ValueError(f"no {modality}, so that there is no pair")
    return pair.identity()


def belong_together(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Identities (..., 3) of two rows each -> (...) whether any of them is equal; -1 equals nothing."""
    found: npt.NDArray[np.bool_] = ((one == other) & (one >= 0)).any(-1)
    return found


def standing_together(identity: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Identities (R, 3) -> (R,) the lowest place of those that each belongs together with, or that do so in a chain."""
    found = np.arange(len(identity))
    columns = [np.unique(column, return_inverse=True)[1] for column in identity.T]
    while True:
        before = found.copy()
        for column, numbers in zip(identity.T, columns, strict=True):
            lowest = np.full(len(found), len(found))
            np.minimum.at(lowest, numbers, found)
            found = np.where(column >= 0, lowest[numbers], found)
        found = found[found]  # as far as is known already, not one step at a time
        if np.array_equal(before, found):
            return found
