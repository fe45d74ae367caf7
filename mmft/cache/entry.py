"""An entry of the store: a folder with shards of what one frozen part computed.

ENTRY/about.json    what computed it, in words; its time is that of the last use
ENTRY/uses.jsonl    what computing took, and how many rows were read instead
ENTRY/*.shard
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmft.batch import Features
from mmft.cache.shard import SUFFIX, Column, DamagedError, Numbers, Shard, write_shard
from mmft.files import locked, write_text

log = logging.getLogger(__name__)
ABOUT = "about.json"
USES = "uses.jsonl"
_ASKED_AGAIN = 1.0  # seconds


class Found(NamedTuple):
    """Where rows are: (R,) shard and row within it, -1 for a row that is not there."""

    shard: Numbers
    row: Numbers


class Entry:
    """What one frozen part computed.

    Args:
        folder: of the entry; created when something is written.
        about: what computed it, for `mmft cache`.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = folder, dict(about)
        self._shards: list[Shard] = []
        self._known: set[str] = set()
        self._where: dict[bytes, tuple[int, int]] = {}
        self._columns: list[Column] | None = None

    def refresh(self) -> None:
        """Opens the shards that were written since, by whatever process."""
        names = sorted(path.name for path in self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []
        for name in names:
            if name in self._known:
                continue
            self._known.add(name)
            try:
                shard = Shard(self.folder / name)
            except (DamagedError, ValueError):  # the latter of an empty file
                _delete(self.folder / name, str(self.folder / name))
                continue
            except OSError as error:
                log.warning("cache: %s is left out: %s", self.folder / name, error)
                continue
            if self._columns is not None and shard.columns != self._columns:
                log.warning("cache: %s is left out: of another shape", self.folder / name)
                continue
            self._columns = shard.columns
            number = len(self._shards)
            self._shards.append(shard)
            for row, key in enumerate(shard.keys.tolist()):
                self._where.setdefault(key, (number, row))
        if names:
            with suppress(OSError):
                os.utime(self.folder / ABOUT)

    def find(self, digests: Sequence[bytes | None]) -> Found:
        """Where the rows with these keys are; None is never found."""
        places = [(-1, -1) if key is None else self._where.get(key, (-1, -1)) for key in digests]
        shard, row = np.array(places, dtype=np.int64).reshape(-1, 2).T.copy()
        return Found(shard, row)

    def is_sound(self, shard: int, row: int) -> bool:
        """Whether a row is undamaged; if not, its file is deleted, so that later commands compute its rows anew."""
        if self._shards[shard].is_sound(row):
            return True
        path = self._shards[shard].path
        _delete(path, f"a row of {path}")
        return False

    def read(self, found: Found, length: int) -> Features:
        """The values of B sound rows; ragged ones are padded with zeros to `length` tokens, or the longest row's."""
        there = found.shard >= 0
        assert self._columns is not None
        places = [(number, np.flatnonzero(found.shard == number)) for number in set(found.shard[there].tolist())]
        if any(column.ragged for column in self._columns):
            longest = [int(self._shards[number].lengths[found.row[at]].max()) for number, at in places]
            length = max([length, *longest])
        shapes = [(len(there), *((length,) if one.ragged else ()), *one.shape) for one in self._columns]
        # NumPy asks for huge pages, which torch does not: a quarter of the time.
        out = [
            np.empty((len(there), column.width * (length if column.ragged else 1)), np.uint8)
            for column in self._columns
        ]
        for number, at in places:
            self._shards[number].read_into(out, at, found.row[at])
        for missing in out if not there.all() else ():
            missing[~there] = 0
        every = zip(out, self._columns, shapes, strict=True)
        values = tuple(torch.from_numpy(one).view(column.torch_dtype).view(shape) for one, column, shape in every)
        return Features(torch.from_numpy(there), values)

    def write(
        self,
        digests: Sequence[bytes],
        lengths: Sequence[int],
        ragged: Sequence[bool],
        rows: Sequence[Sequence[Tensor]],
    ) -> None:
        """Adds rows as one shard; see `write_shard`.

        Raises:
            OSError: they cannot be written.
        """
        columns = [
            Column(str(values[0].dtype).removeprefix("torch."), tuple(values[0].shape[1 if one else 0 :]), bool(one))
            for values, one in zip(rows, ragged, strict=True)
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / ABOUT).exists():
            write_text(self.folder / ABOUT, json.dumps(self.about, indent=1) + "\n", shared=True)
        write_shard(self.folder, digests, lengths, columns, rows)

    @contextmanager
    def writing(self, share: str) -> Iterator[None]:
        """Context in which no other process computes this share of rows; waits until that one has ended.

        Raises:
            OSError: the folder cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        told, lock = False, None
        while lock is None:
            try:
                lock = locked(self.folder / f".writing-{share}", patience=_ASKED_AGAIN)
            except BlockingIOError:
                if not told:
                    log.info("cache: another run computes the same; waiting for it (%s)", self.folder)
                told = True
        try:
            yield
        finally:
            lock.close()

    @property
    def bytes(self) -> int:
        """Size of its shards."""
        return sum(shard.bytes for shard in self._shards)

    @property
    def row_bytes(self) -> int | None:
        """Size of a row's values; None if rows differ, as those with tokens of texts do, or if there are none."""
        columns = self._columns
        return None if columns is None or any(one.ragged for one in columns) else sum(one.width for one in columns)

    def note_computed(self, rows: int, seconds: float) -> None:
        """Notes that computing so many rows took so long."""
        self._note({"computed": rows, "seconds": seconds})

    def note_read(self, rows: int) -> None:
        """Notes that so many rows were read instead of being computed, each counted as often as it was read."""
        self._note({"read": rows})

    def _note(self, what: Mapping[str, float]) -> None:
        with suppress(OSError), (self.folder / USES).open("a", encoding="utf-8") as file:  # short lines are atomic
            file.write(json.dumps({"time": time.time(), **what}) + "\n")


def _delete(path: Path, what: str) -> None:
    """Deletes a damaged file, so that later commands compute its rows anew, and says so."""
    try:
        path.unlink(missing_ok=True)  # it stays open here, and in other processes
    except OSError as error:
        log.warning("cache: %s is damaged and is computed each time: %s", what, error.strerror)
    else:
        log.warning("cache: %s was damaged and is computed again; the file is deleted", what)
