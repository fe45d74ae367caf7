"""The order of training and evaluation rows, as pure functions of (seed, epoch, step).

Nothing here holds a random state: the order of an epoch follows from its key, so a run can resume at any step without
replaying, and any number of workers or ranks sees the same logical batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

Order = Callable[[int], npt.NDArray[np.int64]]
"""`epoch -> (rows,) positions`."""


class Stream(IntEnum):
    """What is drawn: the highest word of the generator's counter. Streams are independent of each other."""

    ORDER = 0
    """The order of rows in an epoch."""
    CLASS_PLACES = 1
    """Which classes get one row more (`BalancedOrder`)."""
    CLASS_ROWS = 2
    """The order of a class's rows (`BalancedOrder`)."""
    AUGMENTATION = 3
    """How a row's image and text are changed."""
    PARTNERS = 4
    """The rows that others are mixed with."""
    CANDIDATES = 5
    """The negative texts of a row."""
    VIEWS = 6
    """The views of an image that are kept (`cache.views`)."""


class BatchSizes:
    """Rows of one optimizer step, by epoch.

    Args:
        schedule: `{first epoch: batch size}`; must include epoch 0.
    """

    def __init__(self, schedule: Mapping[int, int]) -> None:
        if 0 not in schedule or min(schedule) < 0 or min(schedule.values()) < 1:
            raise ValueError(f"batch sizes {dict(schedule)}: epochs count from 0, which must be there; sizes from 1")
        self._schedule = dict(sorted(schedule.items()))

    def at(self, epoch: int) -> int:
        """The batch size of `epoch`."""
        return next(size for first, size in reversed(self._schedule.items()) if first <= epoch)


def steps_in_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps of one epoch, including a shorter last batch."""
    return -(-rows // batch_size)


def epoch_order(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of `n` positions, a pure function of (seed, epoch).

    Args:
        n: number of positions.
        seed: of the run, at least 0 and below 2**63.
        epoch: from 0.

    Returns:
        (n,) int64.
    """
    return philox_order(n, seed, epoch, Stream.ORDER)


def philox_order(n: int, seed: int, number: int, stream: Stream, of: int = 0) -> npt.NDArray[np.int64]:
    """A permutation of `n` positions, a pure function of (seed, number, stream, of).

    Sorts raw words: NumPy may change the stream of `permutation` between versions.

    Args:
        n: number of positions.
        seed: of the run, at least 0 and below 2**63.
        number: of the permutation, from 0.
        stream: what is drawn.
        of: what the permutation is of, among those of the stream.

    Returns:
        (n,) int64.
    """
    return np.argsort(random_words(n, seed, number, stream, of), kind="stable")


def random_words(
    count: int, seed: int, number: int, stream: Stream, of: int = 0, before: int = 0
) -> npt.NDArray[np.uint64]:
    """(count,) random 64-bit words of Philox (Salmon et al., SC 2011), a pure function of all other arguments."""
    key, counter = np.array([seed, number], dtype=np.uint64), np.array([0, before, of, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


class StepPlan:
    """The number of optimizer steps of a run, and the rows of each step.

    Args:
        rows: number of training rows.
        batch_sizes: rows per step by epoch, over all ranks.
        max_epochs: maximum number of epochs.
        max_steps: maximum number of optimizer steps; None for no limit.

    Attributes:
        total: optimizer steps of the whole run.
        epochs: number of epochs started; `max_steps` may cut the last one short.
    """

    def __init__(self, rows: int, batch_sizes: BatchSizes, max_epochs: int, max_steps: int | None = None) -> None:
        self.rows, self.batch_sizes = rows, batch_sizes
        steps = [steps_in_epoch(rows, batch_sizes.at(epoch)) for epoch in range(max_epochs)]
        ends = np.minimum(np.cumsum(steps), np.iinfo(np.int64).max if max_steps is None else max_steps)
        self._ends = np.unique(ends).tolist()  # optimizer steps done at the end of each epoch
        self.total: int = self._ends[-1]
        self.epochs = len(self._ends)

    @property
    def is_even(self) -> bool:
        """Whether every epoch has the same number of steps."""
        return len({self.steps_in(epoch) for epoch in range(self.epochs)}) == 1

    def steps_in(self, epoch: int) -> int:
        """Optimizer steps of `epoch`; beyond the last epoch, those of the last."""
        epoch = min(epoch, self.epochs - 1)
        return int(self._ends[epoch] - (self._ends[epoch - 1] if epoch else 0))

    def steps_before(self, epoch: int) -> int:
        """Optimizer steps of all epochs before `epoch`; the total if training ends earlier."""
        return int(self._ends[min(epoch, self.epochs) - 1]) if epoch else 0

    def rows_at(self, step: int) -> int:
        """Number of rows of optimizer step `step` (from 0), over all ranks."""
        epoch, before = self.locate(step)
        size = self.batch_sizes.at(epoch)
        return min(size, self.rows - before * size)

    def locate(self, step: int) -> tuple[int, int]:
        """The epoch of optimizer step `step` (from 0), and the number of steps before it in that epoch."""
        epoch = int(np.searchsorted(self._ends, step, side="right"))
        return epoch, step - (self._ends[epoch - 1] if epoch else 0)


class LogicalBatches(Sampler[list[Any]]):
    """Batch sampler of training: this rank's share of every logical batch (one optimizer step).

    It is stateless: the starting point follows from the optimizer steps done. A rank's share of a short last batch may
    be empty, so that all ranks take every step.

    Args:
        plan: rows, batch sizes, steps.
        order: returns the positions of an epoch, as many as the plan's rows, or other indices of the data set.
        steps_done: returns the optimizer steps done; called when iteration of an epoch starts.
        rank: this rank.
        world: number of ranks.
    """

    def __init__(
        self, plan: StepPlan, order: Order, steps_done: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        self.plan, self.order, self.steps_done = plan, order, steps_done
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        """Total steps of the current epoch, including those already done."""
        return self.plan.steps_in(self.plan.locate(self.steps_done())[0])

    def __iter__(self) -> Iterator[list[Any]]:
        epoch, start = self.plan.locate(self.steps_done())
        size, order = self.plan.batch_sizes.at(epoch), self.order(epoch)
        for step in range(start, self.plan.steps_in(epoch)):
            yield order[step * size : (step + 1) * size][self.rank :: self.world].tolist()


def evaluation_batches(n: int, batch_size: int, rank: int = 0, world: int = 1) -> list[range]:
    """This rank's batches of positions, in order. Ranks get whole global batches, possibly unequal numbers of them.

    Padding therefore does not depend on the number of ranks.
    """
    return [range(first, min(first + batch_size, n)) for first in range(rank * batch_size, n, world * batch_size)]
