"""The order of training rows in which every class is equally frequent (`data.sampler=balanced`).

Legend: R rows of the training split, K classes that have rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmft.data.order import epoch_order, philox_order

_PLACES, _TURNS = 1, 2  # streams of the generator, beside that of `epoch_order`, 0


class BalancedOrder:
    """Callable `epoch -> (R,) positions`: R // K rows of every class, the remainder to classes in turns, shuffled.

    A class's rows come in turns: all of them in a random order, then all in another, and so on, from one epoch to the
    next, so that at any time each has come as often as any other of its class, give or take one. Random draws with
    replacement (torch's WeightedRandomSampler) leave out a third of the rows of a class drawn as often as it has rows.

    Like `epoch_order` it is a pure function of seed and epoch: how often a class has come before an epoch is counted
    in closed form, so that a run can go on anywhere.

    Args:
        classes: (R,) int64 the class of each position, from 0; -1: it has none (a bad label) and never comes. The
            epoch has R rows all the same.
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
        """(R,) the positions of `epoch` (from 0) in their order."""
        first, last = self._drawn_before(epoch), self._drawn_before(epoch + 1)
        drawn = [self._turns(place, first[place], last[place]) for place in range(len(self._rows))]
        return np.concatenate(drawn)[epoch_order(self._total, self._seed, epoch)]

    def _drawn_before(self, epoch: int) -> list[int]:
        """(K,) how many rows of each class come before `epoch`.

        The remainders of all epochs are dealt one by one to the classes in a random order, round and round.
        """
        classes = len(self._rows)
        each, remainder = divmod(self._total, classes)
        places = philox_order(classes, self._seed, 0, (0, _PLACES)).tolist()
        return [epoch * each + (epoch * remainder + classes - 1 - place) // classes for place in places]

    def _turns(self, place: int, first: int, last: int) -> npt.NDArray[np.int64]:
        """Rows number `first` to `last` (left out) of a class's endless sequence."""
        rows, number = self._rows[place], int(self._numbers[place])
        turns = range(first // len(rows), -(-last // len(rows)))
        sequence = [rows[philox_order(len(rows), self._seed, turn, (number, _TURNS))] for turn in turns]
        skipped = turns.start * len(rows)
        return np.concatenate([*sequence, rows[:0]])[first - skipped : last - skipped]
