"""Integer identities of a row's image, text and group, which decide which rows are positive pairs.

Rows with the same image, the same text or the same group (`data.columns.group`) belong together and are never each
other's negatives. An image is identified by its path or its bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmft.batch import Pair

IDENTITY = slice(0, 3)
"""Columns of a pair target that hold the identities of image, text and group; -1 if the row has none."""
TEXT = 1
"""The column of the text's identity."""
LABEL = 3
"""The next column in a contrastive target: the label's number, -1 without a label."""
MATCH = 3
"""The next column in a matching target: 1 match, 0 no match, -1 unlabelled, which counts as a match."""


def identities(pair: Pair) -> list[int]:
    """(3,) identities of a row's image, text and group.

    Raises:
        ValueError: the row lacks its image or its text.
    """
    for modality, given in (("image", pair.image), ("text", pair.text)):
        if given is None:
            raise ValueError(f"no {modality}, but a pair needs both")
    return pair.identity()


def belong_together(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Identities (..., 3) of two sets of rows -> (...) bool, True = some identity is equal; -1 equals nothing."""
    found: npt.NDArray[np.bool_] = ((one == other) & (one >= 0)).any(-1)
    return found


def standing_together(identity: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Identities (R, 3) -> (R,) the lowest position in each row's connected component of rows that belong together."""
    found = np.arange(len(identity))
    columns = [np.unique(column, return_inverse=True)[1] for column in identity.T]
    while True:
        before = found.copy()
        for column, numbers in zip(identity.T, columns, strict=True):
            lowest = np.full(len(found), len(found))
            np.minimum.at(lowest, numbers, found)
            found = np.where(column >= 0, lowest[numbers], found)
        found = found[found]  # pointer jumping: follow known links instead of one step at a time
        if np.array_equal(before, found):
            return found
