"""Some of many things, spread evenly over them, since a table may be sorted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def spread_evenly(size: int, most: int) -> npt.NDArray[np.int64]:
    """Places, ascending, of at most `most` of `size` things, with the first and the last.

    >>> spread_evenly(9, 3).tolist(), spread_evenly(2, 3).tolist()
    ([0, 4, 8], [0, 1])
    """
    return np.linspace(0, size - 1, min(most, size)).round().astype(np.int64)
