"""The rows of a split of which the store has what a frozen part computes of their image or text."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from mmft.batch import Features
from mmft.cache.entry import Entry, Found
from mmft.cache.shard import KEY
from mmft.data.dataset import RowDataset
from mmft.data.images.image import read_file
from mmft.data.images.mending import BadImage
from mmft.data.views import Views

_MISSING, _UNVERIFIED, _SOUND = 0, 1, 2


class StoredRows:
    """What the store has of the images or of the texts of a split, by position.

    Args:
        entry: of the frozen part.
        digests: of each position, None for a row that has none or cannot be read.

    Attributes:
        reads: how many rows were read so far, by this process.
    """

    def __init__(self, entry: Entry, digests: Sequence[bytes | None]) -> None:
        self.entry, self.digests = entry, list(digests)
        self.reads = 0
        self.refresh()

    def refresh(self) -> None:
        """Looks for the rows again, once more have been written."""
        self.entry.refresh()
        self._found = self.entry.find(self.digests)
        self._state = bytearray((self._found.shard >= 0).astype(np.uint8).tobytes())  # plain: read for every row

    def has(self, position: int) -> bool:
        """Whether the row is there, undamaged."""
        if self._state[position] == _UNVERIFIED:
            sound = self.entry.is_sound(int(self._found.shard[position]), int(self._found.row[position]))
            self._state[position] = _SOUND if sound else _MISSING
        return self._state[position] == _SOUND

    def having(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the rows at these positions are there, undamaged, or need not be: -1 for nothing."""
        state = np.frombuffer(self._state, dtype=np.uint8)
        for at in positions[(positions >= 0) & (state[positions] == _UNVERIFIED)].tolist():
            self.has(at)
        found: npt.NDArray[np.bool_] = (positions < 0) | (state[positions] == _SOUND)
        return found

    def missing(self) -> list[int]:
        """Positions of rows that have the modality and are not there; nothing is verified."""
        return [at for at, digest in enumerate(self.digests) if digest is not None and not self._state[at]]

    @property
    def there(self) -> int:
        """How many rows are there; nothing is verified."""
        return sum(map(bool, self._state))

    def to_compute(self) -> list[int]:
        """Of the missing rows, the first of those that have one image or one text."""
        return list({self.digests[at]: at for at in reversed(self.missing())}.values())[::-1]

    @property
    def row_bytes(self) -> int | None:
        """Size of what is read of a row; None if rows differ in size, or if nothing is there."""
        return self.entry.row_bytes

    def read(self, positions: Sequence[int | None], length: int) -> Features | None:
        """Of the rows at these positions, None for nothing; None if none is there. See `Entry.read`."""
        at = np.array([-1 if position is None else position for position in positions], dtype=np.int64)
        shard = np.where(at >= 0, self._found.shard[at], -1)
        if (shard < 0).all():
            return None
        self.reads += int((shard >= 0).sum())
        return self.entry.read(Found(shard, self._found.row[at]), length)


def digests_of(rows: RowDataset, modality: str, views: Views | None = None) -> list[bytes | None]:
    """The key of each row's image, a hash of its encoded bytes, or of its text, a hash of its tokens.

    None for a row without the modality, or whose image cannot be read. With views of the images, their keys follow, and
    the images themselves have none, since training does not read them.
    """
    if modality == "image":
        own = [(row, _digest_of_image(rows, row)) for row in rows.split.rows.tolist()]
        if views is None:
            return [key for _, key in own]
        found: list[bytes | None] = [None] * len(own)
        for view in range(views.count):
            found += [None if key is None else views.digest(key, row, view) for row, key in own]
        return found
    texts = (rows.tokens.of(at) for at in range(len(rows)))
    return [digest_of_bytes(ids.tobytes()) if len(ids) else None for ids in texts]


def _digest_of_image(rows: RowDataset, row: int) -> bytes | None:
    if rows.written is not None and (not rows.written.cuts or len(rows.split.table.images(row)) > 1):
        return None  # several images of a row are computed each time
    source = None if row in rows.bad else rows.split.table.image(row)
    if source is None:
        return None
    try:
        return digest_of_bytes(source if isinstance(source, bytes) else read_file(source))
    except BadImage:
        return None


def digest_of_bytes(data: bytes) -> bytes:
    """The key of an image with these encoded bytes, or of a text with these tokens."""
    return blake2b(data, digest_size=KEY).digest()
