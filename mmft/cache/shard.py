"""A shard: a file with the values of some rows, written whole or not at all, and mapped into memory to be read.

    magic, length of the header, header (JSON), keys, lengths, checksums, digest of all these, padding, values

Every row has a checksum, verified when this process or one that it was forked from reads the row for the first time. A
file that is cut short or whose index is damaged is not opened; a damaged row is as if it were not there.

Legend: R rows, L tokens of a text, W bytes of a row or token.
"""

from __future__ import annotations

import json
import mmap
import os
import uuid
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmft.files import written_aside

KEY = 16
"""Bytes of a row's key."""
SUFFIX = ".shard"
_MAGIC = b"mmft.kept.1\n"
_ALIGN = 64
_SOUND, _DAMAGED = 1, 2
_COPIED_ALONE = 8192  # bytes from which a row is copied by itself: many rows at once are copied twice
Keys = npt.NDArray[np.void]  # (R,) of KEY bytes
Numbers = npt.NDArray[np.int64]


class Column(NamedTuple):
    """One of the tensors that are kept of each row.

    Attributes:
        dtype: torch's name, `float32`.
        shape: of a row, or of a token if `ragged`.
        ragged: whether rows have different numbers of tokens.
    """

    dtype: str
    shape: tuple[int, ...]
    ragged: bool

    @property
    def width(self) -> int:
        """W."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        """Torch's dtype."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


class DamagedError(Exception):
    """A shard that cannot be used, and why."""


def keys_of(digests: Sequence[bytes]) -> Keys:
    """Digests of `KEY` bytes as an array."""
    return np.frombuffer(b"".join(digests), dtype=f"V{KEY}")


def write_shard(
    folder: Path,
    digests: Sequence[bytes],
    lengths: Sequence[int],
    columns: Sequence[Column],
    rows: Sequence[Sequence[Tensor]],
) -> Path:
    """Writes a shard under a name of its own.

    Args:
        folder: of the entry.
        digests: (R,) keys.
        lengths: (R,) number of tokens of each row; read for ragged columns alone.
        columns: what `rows` hold.
        rows: for each column, R tensors on the CPU: `shape`, or (L, *shape).

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    payload = [[_bytes_of(value) for value in values] for values in rows]
    sums = np.array([_sum(parts) for parts in zip(*payload, strict=True)], dtype=np.uint32)
    head = {"rows": len(digests), "columns": [column._asdict() for column in columns]}
    index = [
        json.dumps(head).encode(),
        keys_of(digests).tobytes(),
        np.asarray(lengths, dtype=np.int64).tobytes(),
        sums.tobytes(),
    ]
    front = _MAGIC + len(index[0]).to_bytes(8, "little") + b"".join(index)
    front += blake2b(front, digest_size=16).digest()
    path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
    with written_aside(path) as aside, aside.open("wb") as file:
        file.write(front)
        for column in payload:
            file.write(bytes(-file.tell() % _ALIGN))
            file.writelines(column)
        file.flush()
        os.fsync(file.fileno())
    return path


class Shard:
    """A shard that is open for reading.

    Args:
        path: the file.

    Attributes:
        keys: (R,).
        columns: what is kept of each row.
        bytes: size of the file.

    Raises:
        DamagedError: it is cut short, or its index is damaged.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.bytes = os.fstat(file.fileno()).st_size
            if self.bytes < len(_MAGIC) + 8:
                raise DamagedError("cut short")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = self._read_index()
        self._widths = [column.width for column in self.columns]
        self._values: list[npt.NDArray[np.uint8]] = []
        for column, width in zip(self.columns, self._widths, strict=True):
            start += -start % _ALIGN
            size = (int(self._offsets[-1]) if column.ragged else len(self.keys)) * width
            if start + size > self.bytes:
                raise DamagedError("cut short")
            self._values.append(np.frombuffer(self._map, dtype=np.uint8, count=size, offset=start))
            start += size
        # Shared with forked workers; anonymous, so it is not limited by /dev/shm.
        self._verified = np.frombuffer(mmap.mmap(-1, max(1, len(self.keys))), dtype=np.uint8)

    def _read_index(self) -> int:
        """Reads all that precedes the values; returns where that ends."""
        at = len(_MAGIC) + 8
        if self._map[: len(_MAGIC)] != _MAGIC:
            raise DamagedError("not a shard")
        try:
            end = at + int.from_bytes(self._map[len(_MAGIC) : at], "little")
            head = json.loads(self._map[at:end])
            rows = int(head["rows"])
            self.columns = [Column(c["dtype"], tuple(c["shape"]), c["ragged"]) for c in head["columns"]]
            sizes = (rows * KEY, rows * 8, rows * 4)
            parts = [self._map[end + sum(sizes[:n]) : end + sum(sizes[: n + 1])] for n in range(3)]
            end += sum(sizes)
            if blake2b(self._map[:end], digest_size=16).digest() != self._map[end : end + 16]:
                raise DamagedError("a damaged index")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError("a damaged index") from error
        self.keys = np.frombuffer(parts[0], dtype=f"V{KEY}")
        self.lengths = np.frombuffer(parts[1], dtype=np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self._sums = np.frombuffer(parts[2], dtype=np.uint32)
        return end + 16

    def is_sound(self, row: int) -> bool:
        """Whether a row is undamaged."""
        if not self._verified[row]:
            parts = [self._row(number, row).data for number in range(len(self.columns))]
            self._verified[row] = _SOUND if _sum(parts) == self._sums[row] else _DAMAGED
        return bool(self._verified[row] == _SOUND)

    def read_into(self, out: Sequence[npt.NDArray[np.uint8]], at: Numbers, rows: Numbers) -> None:
        """Copies rows into rows `at` of `out`: the bytes of B rows per column, of ragged rows of L tokens.

        What a ragged row leaves of L becomes zeros.
        """
        for column, width, values, own in zip(self.columns, self._widths, out, self._values, strict=True):
            if not column.ragged and width < _COPIED_ALONE:
                values[at] = own.reshape(-1, width)[rows]
                continue
            size, into, source = values.shape[1], values.data.cast("B"), own.data
            for place, row in zip(at.tolist(), rows.tolist(), strict=True):
                begin, end = self._span(column, width, row)
                start = place * size
                into[start : start + end - begin] = source[begin:end]
                if end - begin < size:
                    values[place, end - begin :] = 0

    def _span(self, column: Column, width: int, row: int) -> tuple[int, int]:
        """Where the bytes of a row of a column begin and end."""
        if not column.ragged:
            return row * width, (row + 1) * width
        first, last = self._offsets[row : row + 2].tolist()
        return first * width, last * width

    def _row(self, number: int, row: int) -> npt.NDArray[np.uint8]:
        """The bytes of a row of a column."""
        begin, end = self._span(self.columns[number], self._widths[number], row)
        return self._values[number][begin:end]


def _bytes_of(value: Tensor) -> bytes:
    return value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _sum(parts: Sequence[bytes | memoryview]) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total
