"""The store: a folder of entries, each with shards of what one frozen part computed.

    STORE/ENTRY/about.json    what computed it, in words; its time is that of the last use
    STORE/ENTRY/uses.jsonl    what computing took, and how many rows were read instead
    STORE/ENTRY/*.shard

An entry's name is the hash of all that the values depend on, but for the rows themselves; a row's key is the hash of
the row's own bytes. So a change is a miss. Several processes may read and write at once: a shard appears whole, and one
that was removed meanwhile is still mapped.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmft.batch import Features
from mmft.cache.shard import SUFFIX, Column, DamagedError, Numbers, Shard, write_shard
from mmft.files import located, write_text

log = logging.getLogger(__name__)
ABOUT = "about.json"
USES = "uses.jsonl"
_ABANDONED = 3600.0  # seconds after which a file that was never finished is removed


class Summary(NamedTuple):
    """An entry, for people.

    Attributes:
        folder: of the entry.
        about: what computed it.
        rows: that it holds, without repetitions.
        bytes: of its shards.
        used: when it was last used, in seconds since 1970.
        saved: seconds of computing that its uses have saved, by what a row took to compute.
    """

    folder: Path
    about: dict[str, Any]
    rows: int
    bytes: int
    used: float
    saved: float


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
                if self._columns is not None and shard.columns != self._columns:
                    raise DamagedError("of another shape")
            except (DamagedError, OSError, ValueError) as error:
                log.warning("cache: %s is left out: %s", self.folder / name, error)
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
        """Whether a row is undamaged; a warning says that it is not."""
        if self._shards[shard].is_sound(row):
            return True
        log.warning("cache: a row of %s is damaged and is computed again", self._shards[shard].path)
        return False

    def read(self, found: Found, length: int) -> Features:
        """The values of B sound rows; ragged ones are padded with zeros to `length` tokens, or the longest row's."""
        there = found.shard >= 0
        assert self._columns is not None
        size = len(there)
        lengths = [int(self._shards[s].lengths[r]) for s, r in zip(*found, strict=True) if s >= 0]
        longest = max([length, *lengths])
        out = [
            torch.zeros(size, *((longest,) if column.ragged else ()), *column.shape, dtype=column.torch_dtype)
            for column in self._columns
        ]
        for number in np.unique(found.shard[there]).tolist():
            at = np.flatnonzero(found.shard == number)
            self._shards[number].read_into(out, at, found.row[at])
        return Features(torch.from_numpy(there), tuple(out))

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
            write_text(self.folder / ABOUT, json.dumps(self.about, indent=1) + "\n")
        write_shard(self.folder, digests, lengths, columns, rows)

    @property
    def bytes(self) -> int:
        """Size of its shards."""
        return sum(shard.bytes for shard in self._shards)

    def note_computed(self, rows: int, seconds: float) -> None:
        """Notes that computing so many rows took so long."""
        self._note({"computed": rows, "seconds": seconds})

    def note_read(self, rows: int) -> None:
        """Notes that a run has read so many rows, each as often as it needed them, instead of computing them."""
        self._note({"read": rows})

    def _note(self, what: Mapping[str, float]) -> None:
        with suppress(OSError), (self.folder / USES).open("a", encoding="utf-8") as file:  # short lines are atomic
            file.write(json.dumps({"time": time.time(), **what}) + "\n")


class Store:
    """The store in a folder.

    Args:
        folder: created when something is written.
        limit: bytes that it may take; the entries that were used longest ago are removed for new ones.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def entry(self, name: str, about: Mapping[str, Any]) -> Entry:
        """The entry of this name, empty if there is none."""
        entry = Entry(self.folder / name, about)
        entry.refresh()
        return entry

    def make_room(self, wanted: int, keep: Sequence[Path]) -> bool:
        """Removes the entries that were used longest ago until `wanted` bytes fit; whether they do now.

        Args:
            wanted: bytes about to be written.
            keep: folders of entries in use by this run.
        """
        folders = sorted(entries(self.folder), key=last_used)
        taken = sum(map(size_of, folders))
        for folder in folders:
            if taken + wanted <= self.limit:
                break
            if folder not in keep:
                taken -= size_of(folder)
                log.info("cache: %s, which was used longest ago, is removed to make room", folder)
                remove(folder)
        self._tidy()
        free = shutil.disk_usage(_existing(self.folder)).free
        return taken + wanted <= self.limit and wanted <= free

    def _tidy(self) -> None:
        """Removes files that a killed process left unfinished."""
        for path in self.folder.glob("*/*.new"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()


def cache_folder(typed: str | None) -> Path:
    """The folder of the store: `paths.cache`, or the user's cache folder."""
    if typed is not None:
        return located(typed)
    return located(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mmft"


def entries(store: Path) -> list[Path]:
    """The folders of a store's entries."""
    return [path.parent for path in store.glob(f"*/{ABOUT}")]


def summary_of(entry: Path) -> Summary:
    """What there is to say about an entry."""
    try:
        about = json.loads((entry / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        about = {}
    keys: set[bytes] = set()
    for shard, _ in _opened(entry):
        keys |= set() if shard is None else set(shard.keys.tolist())
    return Summary(entry, about, len(keys), size_of(entry), last_used(entry), _saved(entry))


def _saved(entry: Path) -> float:
    """Seconds that reading has saved."""
    total = {"computed": 0.0, "seconds": 0.0, "read": 0.0}
    with suppress(OSError):
        for line in (entry / USES).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, AttributeError, TypeError):
                total = {name: value + json.loads(line).get(name, 0.0) for name, value in total.items()}
    return total["read"] * total["seconds"] / total["computed"] if total["computed"] else 0.0


def verify(entry: Path) -> int:
    """Reads all of an entry, and removes the shards that are damaged; their number."""
    damaged = [
        path
        for shard, path in _opened(entry)
        if shard is None or not all(shard.is_sound(row) for row in range(len(shard.keys)))
    ]
    for path in damaged:
        path.unlink(missing_ok=True)
    return len(damaged)


def remove(entry: Path) -> None:
    """Removes an entry; a run that reads it now still can."""
    shutil.rmtree(entry, ignore_errors=True)


def _opened(entry: Path) -> Iterator[tuple[Shard | None, Path]]:
    """The shards of an entry, None for one that cannot be opened."""
    for path in sorted(entry.glob(f"*{SUFFIX}")):
        try:
            yield Shard(path), path
        except (DamagedError, OSError, ValueError):
            yield None, path


def size_of(entry: Path) -> int:
    """Bytes of an entry's shards."""
    total = 0
    for path in entry.glob(f"*{SUFFIX}"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def last_used(entry: Path) -> float:
    """When an entry was last used, in seconds since 1970."""
    try:
        return (entry / ABOUT).stat().st_mtime
    except OSError:
        return 0.0


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
