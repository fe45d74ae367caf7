"""`ImageMemory`: images are decoded once and kept for later epochs, and for later jobs of a sweep."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmft.data.image import ImageReader
from mmft.data.kept import stamp
from mmft.data.splits import Split


class ImageMemory:
    """Callable `(position) -> (3, H, W) uint8`, the image of a row as `ImageReader` gives it; None: it has none.

    Rows are kept as they come, until the memory is full; what does not fit is decoded every time. Forked workers
    share the memory with each other and with later epochs (it is anonymous, so that no size of /dev/shm limits it),
    and a page that nothing was written to takes no room. What comes out must not be written to.

    Args:
        split: the rows.
        reader: decodes.
        bytes_: room for images, at most.
    """

    def __init__(self, split: Split, reader: ImageReader, bytes_: int) -> None:
        self.split, self.reader = split, reader
        side = reader.image_size
        self.rows = min(len(split), bytes_ // (3 * side * side))
        """How many rows there is room for: the first of the split."""
        self._pixels = _shared(self.rows * 3 * side * side).view(-1, 3, side, side)
        self.bytes = self._pixels.numel()
        """The room that they take when all are kept."""
        self._done = _shared(self.rows * 8).view(torch.int64)  # 0: not yet, otherwise the file's mark

    def __call__(self, position: int) -> Tensor | None:
        """The image of the row at `position`; H = W = image size.

        Raises:
            BadImage: whatever is wrong with it; nothing is kept then.
        """
        kept = position < self.rows
        if kept and self._done[position]:
            return self._pixels[position]
        source = self.split.table.image(int(self.split.rows[position]))
        if source is None or not kept:
            return None if source is None else self.reader(source)
        mark = _mark(source)
        self._pixels[position] = self.reader(source)
        self._done[position] = mark  # last, so that another worker never sees half an image
        return self._pixels[position]

    @property
    def filled(self) -> int:
        """How many rows are kept by now."""
        return int((self._done != 0).sum())

    def check_files(self) -> None:
        """Forgets the images whose files have changed since they were read. For a new job."""
        done = self._done.numpy()
        for position in np.flatnonzero(done).tolist():
            source = self.split.table.image(int(self.split.rows[position]))
            if source is None or _mark(source) != done[position]:
                done[position] = 0

    def __reduce__(self) -> Any:
        """A worker that is not forked has no share in the memory."""
        return ImageMemory, (self.split, self.reader, 0)


def _mark(source: str | bytes) -> int:
    """Not 0, and another number when the file changes; bytes in the table have the table's own stamp."""
    return 1 if isinstance(source, bytes) else hash(stamp(source)[1:]) or 1


def _shared(count: int) -> Tensor:
    """(count,) uint8 of zeros, one memory for this process and all that it forks."""
    return torch.frombuffer(mmap.mmap(-1, count), dtype=torch.uint8) if count else torch.zeros(0, dtype=torch.uint8)
