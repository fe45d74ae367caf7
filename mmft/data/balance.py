"""The order of training rows with equal class frequencies (`data.sampler=balanced`).

Legend: R rows of the training split, K classes with rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmft.data.order import Stream, epoch_order, philox_order


class BalancedOrder:
    """Callable `epoch -> (R,) positions`: R // K rows of every class, shuffled; classes take turns for the remainder.

    Each class cycles through its rows, reshuffled every cycle and continued across epochs, so that rows of one class
    have been drawn equally often, up to one. Drawing with replacement (torch's WeightedRandomSampler) would miss a
    third of the rows of a class when drawing as many rows as it has.

    Like `epoch_order` it is a pure function of seed and epoch: the number of draws of a class before an epoch has a
    closed form, so that a run can resume anywhere.

    Args:
        classes: (R,) int64 class of each position, from 0; rows with -1 (a bad label) are never drawn. An epoch still
            has R rows.
        seed: of the run.

    Attributes:
        sizes: (K,) rows of each class.

    Raises:
        ValueError: no row has a class.
    """

    def __init__(self, classes: npt.NDArray[np.int64], seed: int) -> None:
        self._numbers = np.unique(classes[classes >= 0])
        if not len(self._numbers):
            raise ValueError("no row has a class")
        self._rows = [np.flatnonzero(classes == number) for number in self._numbers]
        self._total, self._seed = len(classes), seed
        self.sizes = np.array([len(rows) for rows in self._rows])

    def __call__(self, epoch: int) -> npt.NDArray[np.int64]:
        """(R,) positions of `epoch` (from 0), in order."""
        first, last = self._drawn_before(epoch), self._drawn_before(epoch + 1)
        drawn = [self._turns(place, first[place], last[place]) for place in range(len(self._rows))]
        return np.concatenate(drawn)[epoch_order(self._total, self._seed, epoch)]

    def _drawn_before(self, epoch: int) -> list[int]:
        """(K,) number of rows of each class drawn before `epoch`.

        The remainders of all epochs are dealt round-robin to the classes in a random order.
        """
        classes = len(self._rows)
        each, remainder = divmod(self._total, classes)
        places = philox_order(classes, self._seed, 0, Stream.CLASS_PLACES).tolist()
        return [epoch * each + (epoch * remainder + classes - 1 - place) // classes for place in places]

    def _turns(self, place: int, first: int, last: int) -> npt.NDArray[np.int64]:
        """Rows `first` to `last` (exclusive) of a class's infinite sequence."""
        rows, number = self._rows[place], int(self._numbers[place])
        turns = range(first // len(rows), -(-last // len(rows)))
        sequence = [rows[philox_order(len(rows), self._seed, turn, Stream.CLASS_ROWS, number)] for turn in turns]
        skipped = turns.start * len(rows)
        return np.concatenate([*sequence, rows[:0]])[first - skipped : last - skipped]
