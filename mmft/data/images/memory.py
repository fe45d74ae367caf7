"""`ImageMemory`: caches decoded images across epochs, and across jobs of a sweep."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmft.batch.images import Pieces
from mmft.data.images.image import ImageReader
from mmft.data.job_cache import stamp
from mmft.data.splitting.splits import Split


class ImageMemory:
    """Callable `(position) -> (3, H, W) uint8`, a row's image as from `ImageReader`; None if the row has none.

    The first rows of the split are cached when first read, as many as fit; the others are decoded every time. Forked
    workers share the memory with one another and with later epochs (it is anonymous, so not limited by /dev/shm).
    Untouched pages take no space. The returned tensor must not be modified.

    Args:
        split: the rows.
        reader: decodes images.
        bytes_: maximum size of the cache.
    """

    def __init__(self, split: Split, reader: ImageReader, bytes_: int) -> None:
        self.split, self.reader = split, reader
        side = reader.image_size
        self.rows = 0 if reader.pieces is not None else min(len(split), bytes_ // (3 * side * side))
        """Number of rows that fit: the first ones of the split."""
        self._pixels = _shared(self.rows * 3 * side * side).view(-1, 3, side, side)
        self.bytes = self._pixels.numel()
        """Size of the full cache."""
        self._done = _shared(self.rows * 8).view(torch.int64)  # (rows,) 0 if not cached, otherwise the file's mark

    def __call__(self, position: int) -> Tensor | Pieces | None:
        """The image of the row at `position`; H = W = image size. Images in pieces are not cached.

        Raises:
            BadImage: it cannot be read; nothing is cached then.
        """
        kept = position < self.rows
        if kept and self._done[position]:
            return self._pixels[position]
        source = self.split.table.image(int(self.split.rows[position]))
        if source is None or not kept:
            found: Tensor | Pieces | None = None if source is None else self.reader(source)
            return found
        mark = _mark(source)
        self._pixels[position] = self.reader(source)
        self._done[position] = mark  # last, so that another worker never sees a partial image
        return self._pixels[position]

    def every(self, position: int) -> list[Pieces]:
        """All images of the row at `position`, in pieces; not cached.

        Raises:
            BadImage: one cannot be read.
        """
        found = map(self.reader, self.split.table.images(int(self.split.rows[position])))
        return [Pieces.of_square(one) if isinstance(one, Tensor) else one for one in found]

    @property
    def filled(self) -> int:
        """Number of rows cached so far."""
        return int((self._done != 0).sum())

    def check_files(self) -> None:
        """Drops cached images whose files have changed since. Called at the start of a job."""
        done = self._done.numpy()
        for position in np.flatnonzero(done).tolist():
            source = self.split.table.image(int(self.split.rows[position]))
            if source is None or _mark(source) != done[position]:
                done[position] = 0

    def __reduce__(self) -> Any:
        """Pickles without the cache: a worker that is not forked cannot share it."""
        return ImageMemory, (self.split, self.reader, 0)


def _mark(source: str | bytes) -> int:
    """A nonzero number that changes with the file; bytes in the table are covered by the table's own stamp."""
    return 1 if isinstance(source, bytes) else hash(stamp(source)[1:]) or 1


def _shared(count: int) -> Tensor:
    """(count,) uint8 zeros in memory shared with forked processes."""
    return torch.frombuffer(mmap.mmap(-1, count), dtype=torch.uint8) if count else torch.zeros(0, dtype=torch.uint8)
