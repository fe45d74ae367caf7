"""Candidate texts for training rows, from which each row's negative is drawn.

    Order (or Draws) -> NextInBatch -> LogicalBatches -> (workers) WithCandidates -> Sample

A row's candidates are the next rows of its own logical batch, wrapping around and skipping positives. The order of an
epoch is already random, so these are as random as separate draws, depend only on seed and epoch, and use every text
about equally often. Neighbouring rows share candidates, so that M rows need about M + K texts to be encoded, not M K.

Legend: R rows of an epoch, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from mmft.batch import Candidate, Sample
from mmft.data.augmented_rows import AugmentedRows
from mmft.data.dataset import RowDataset
from mmft.data.gathered import NOBODY, Positions
from mmft.data.order import BatchSizes, Order, Stream, random_words
from mmft.errors import UserError
from mmft.tasks.identities import IDENTITY, MATCH, belong_together

_BITS = 52  # of a chance, so that adding half of the last bit is exact in float64


class NextInBatch:
    """Callable `epoch -> (R, W + 2 K)` int64: the row's request, its candidates' positions and their chances.

    Fewer than K candidates are padded with `NOBODY`. Chances are uniform integers below 2**52, a pure function of
    (seed, epoch). Rows that the table alone makes bad, rows of weight 0 and labelled mismatches have no candidates; of
    these, only the text of a mismatch can be a candidate.

    Args:
        order: returns positions of an epoch, or lines of W numbers that start with them.
        rows: of the training split, with pair targets.
        batch_sizes: of the run.
        count: K, at least 1.
        seed: of the run.

    Raises:
        UserError: the first epoch has no negative pair.
    """

    def __init__(self, order: Order, rows: RowDataset, batch_sizes: BatchSizes, count: int, seed: int) -> None:
        assert rows.targets is not None
        self._order, self._batch_sizes, self._count, self._seed = order, batch_sizes, count, seed
        targets, numbers = rows.targets.numpy(), rows.split.rows.tolist()
        self._identity = targets[:, IDENTITY]
        self._offered = np.array([row not in rows.bad and rows.split.table.weight(row) > 0 for row in numbers])
        self._asks = self._offered & (targets[:, MATCH] != 0)
        only_pairs = bool((self._asks == self._offered).all())
        if only_pairs and (self(0)[:, -2 * count : -count] == NOBODY).all():
            raise UserError(
                "task=matching: no negative pairs: in every batch all rows share an image, a text or a group. "
                "Check data.columns"
            )

    def __call__(self, epoch: int) -> npt.NDArray[np.int64]:
        """The rows of `epoch` (from 0), in order."""
        order = self._order(epoch)
        return self.lines(order.reshape(len(order), -1), self._batch_sizes.at(epoch), epoch)

    def lines(self, asked: Positions, size: int, epoch: int) -> Positions:
        """Requests (R, W) of rows in batches of `size` -> (R, W + 2 K)."""
        words = random_words(len(asked) * self._count, self._seed, epoch, Stream.CANDIDATES)
        chances = (words >> np.uint64(64 - _BITS)).astype(np.int64).reshape(len(asked), self._count)
        return np.concatenate([asked, self._next(asked[:, 0], size), chances], axis=1)

    def _next(self, positions: Positions, size: int) -> Positions:
        """Positions (R,) in batches of `size` -> (R, K) positions of their candidates."""
        total, places = len(positions), np.arange(len(positions))
        first = places // size * size
        lengths = np.minimum(size, total - first)  # (R,) size of each row's batch
        found = np.full((total, self._count), NOBODY, dtype=np.int64)
        counts = np.where(self._asks[positions], 0, self._count)  # (R,) candidates found; K for rows without
        for step in range(1, min(size, total)):
            wanting = np.flatnonzero((counts < self._count) & (step < lengths))
            if not len(wanting):
                break
            own = positions[wanting]
            other = positions[first[wanting] + (wanting - first[wanting] + step) % lengths[wanting]]
            fits = self._offered[other] & (own != other) & ~belong_together(self._identity[own], self._identity[other])
            at = wanting[fits]
            found[at, counts[at]] = other[fits]
            counts[at] += 1
        return found


class WithCandidates(Dataset[Sample]):
    """Training rows with their candidates' texts, augmented as in the candidates' own rows of the epoch.

    Without augmentation, an unchanged text would reveal a negative.

    Args:
        rows: the data set of the training split.
        changed: the data set of the rows themselves, indexed by a position or by a line of `Draws`.
        count: K.
    """

    def __init__(self, rows: RowDataset, changed: RowDataset | AugmentedRows, count: int) -> None:
        self.rows, self.changed, self.count = rows, changed, count

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, line: Sequence[int]) -> Sample:
        """The row of a line of `NextInBatch`."""
        asked = line[: -2 * self.count]
        sample = self.changed[asked] if isinstance(self.changed, AugmentedRows) else self.changed[asked[0]]
        if sample.bad is not None:
            return sample
        drawn = zip(line[-2 * self.count : -self.count], line[-self.count :], strict=True)
        return replace(sample, candidates=tuple(self._candidate(asked, *one) for one in drawn if one[0] != NOBODY))

    def _candidate(self, asked: Sequence[int], position: int, chance: int) -> Candidate:
        number, changed = int(self.rows.split.rows[position]), self.changed
        text = changed.text(position, asked[1]) if isinstance(changed, AugmentedRows) else changed.text(position)
        return Candidate(number, text, (chance + 0.5) / 2**_BITS)
