"""Several targets of a row, such as several reference answers, of which training draws one in each epoch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmft.data.splitting.splits import Split


class DrawnTargets:
    """The targets of every row.

    Args:
        split: the rows.
        encode: of a label: its targets, at least one.
        bad: numbers of the rows that have none.
    """

    def __init__(self, split: Split, encode: Callable[[Any], Sequence[Any]], bad: Collection[int]) -> None:
        labels = zip(split.rows.tolist(), split.table.labels(split.rows), strict=True)
        found = [[] if row in bad else encode(label) for row, label in labels]
        self._targets = torch.tensor([target for targets in found for target in targets])  # (targets of all rows, ...)
        self._first = np.cumsum([0, *map(len, found)])  # (rows + 1,)

    def of(self, position: int, seed: int) -> Tensor:
        """One of a row's targets (...), a pure function of `seed`."""
        first, end = self._first[position : position + 2].tolist()
        return self._targets[first + seed % (end - first)]
