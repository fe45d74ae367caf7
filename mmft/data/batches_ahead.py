"""`BatchesAhead`: batches of rows of which the store has all that the model reads, many made at once.

Making one of 32 rows takes as long as making one of a thousand, and half as long as a step of a small head. So many are
made as one and handed out in slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from mmft.batch import Batch
from mmft.data.collate import Collate
from mmft.data.dataset import RowDataset
from mmft.data.gathered import NOBODY, Gathered

_AT_ONCE = 8 * 2**20  # bytes of stored values


class BatchesAhead:
    """The same batches as `mmft.data.loading.make_loader`, but for tokens of texts that nothing reads.

    Args:
        rows: of one split.
        batches: positions of each batch; a sampler or a list.
        collate: makes a batch of rows.
    """

    def __init__(self, rows: RowDataset, batches: Any, collate: Collate) -> None:
        self.rows, self.batches, self.collate = rows, batches, collate

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        wanted: Iterator[Sequence[int]] = iter(self.batches)
        for first in wanted:
            some = [first, *islice(wanted, self._more(first))]
            made = self._at_once(some)
            yield from map(self._alone, some) if made is None else made

    def _more(self, batch: Sequence[int]) -> int:
        """How many batches to make with one like this."""
        sizes = [one.row_bytes for one in self.rows.stored.values()]
        known = [size for size in sizes if size is not None]
        return _AT_ONCE // (sum(known) * max(1, len(batch))) if known and len(known) == len(sizes) else 0

    def _alone(self, positions: Sequence[int]) -> Batch:
        return self.collate(self.rows.__getitems__(positions))

    def _at_once(self, batches: Sequence[Sequence[int]]) -> Iterable[Batch] | None:
        """None if a row is bad, or something of it has to be computed."""
        if len(batches) == 1:
            return None
        found = self.rows.__getitems__(list(chain.from_iterable(batches)))
        if not isinstance(found, Gathered) or found.bad or ((found.text == NOBODY) & (found.lengths > 0)).any():
            return None
        return self.collate(found._replace(needs_no_tokens=True)).split([len(one) for one in batches])
