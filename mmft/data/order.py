"""The order of training and evaluation rows, as pure functions of (seed, epoch, step).

Nothing here holds a random state: the order of an epoch follows from its key, so a run can go on at any
step without replaying, and any number of workers or ranks sees the same logical batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class BatchSizes:
    """Rows of one optimizer step, by epoch.

    Args:
        schedule: `{first epoch: batch size}`; must say what holds from epoch 0.
    """

    def __init__(self, schedule: Mapping[int, int]) -> None:
        if 0 not in schedule or min(schedule) < 0 or min(schedule.values()) < 1:
            raise ValueError(f"batch sizes {dict(schedule)}: epochs count from 0, which must be there; sizes from 1")
        self._schedule = dict(sorted(schedule.items()))

    def at(self, epoch: int) -> int:
        """The batch size of `epoch`."""
        return next(size for first, size in reversed(self._schedule.items()) if first <= epoch)


def steps_in_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps of one epoch; the last, shorter batch is one too."""
    return -(-rows // batch_size)


def epoch_order(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of `n` positions, the same for ever for one (seed, epoch).

    It sorts raw words of the counter-based generator Philox (Salmon et al., SC 2011) instead of calling
    `permutation`, whose stream NumPy may change between versions.

    Args:
        n: how many positions.
        seed: of the run, from 0 below 2**63.
        epoch: from 0.

    Returns:
        (n,) int64.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


class LogicalBatches(Sampler[list[int]]):
    """Batch sampler of training: this rank's share of every logical batch (one optimizer step).

    Set `epoch` before an epoch, and `start` to the steps of it that are already done; `start` holds for
    one iteration. A rank's share of a short last batch may be empty, so that all ranks take every step.

    Args:
        n: rows of the training split.
        batch_sizes: rows of one step, over all ranks.
        seed: of the run.
        rank: which share is ours.
        world: how many shares there are.
    """

    def __init__(self, n: int, batch_sizes: BatchSizes, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.batch_sizes, self.seed = n, batch_sizes, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Steps of `epoch` in full, whatever `start` is."""
        return steps_in_epoch(self.n, self.batch_sizes.at(self.epoch))

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that `start` is consumed by the first batch that is asked for: a DataLoader
        # with workers calls iter() twice and uses only the second result.
        start, self.start = self.start, 0
        size, order = self.batch_sizes.at(self.epoch), epoch_order(self.n, self.seed, self.epoch)
        for step in range(start, steps_in_epoch(self.n, size)):
            yield order[step * size : (step + 1) * size][self.rank :: self.world].tolist()


def evaluation_batches(n: int, batch_size: int, rank: int = 0, world: int = 1) -> list[range]:
    """Batches of positions in order, made globally and dealt whole to ranks, so that padding does not
    depend on how many ranks there are. Ranks may get different numbers of batches.
    """
    return [range(first, min(first + batch_size, n)) for first in range(rank * batch_size, n, world * batch_size)]
