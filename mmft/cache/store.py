"""The store: a folder of entries; see `Entry`.

An entry's name is the hash of all that the values depend on, but for the rows themselves; a row's key is the hash of
the row's own bytes. So a change is a miss. Several processes may read and write at once: a shard appears whole, and one
that was removed meanwhile is still mapped.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmft.cache.entry import ABOUT, Entry
from mmft.cache.shard import SUFFIX
from mmft.errors import free_bytes
from mmft.files import located

log = logging.getLogger(__name__)
_ABANDONED = 3600.0  # seconds after which a file that was never finished is removed


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

        Nothing is removed if that would not make them fit.

        Args:
            wanted: bytes about to be written.
            keep: folders of entries in use by this run.
        """
        sizes = {folder: size_of(folder) for folder in sorted(entries(self.folder), key=last_used)}
        taken, others = sum(sizes.values()), [folder for folder in sizes if folder not in keep]
        self._tidy()
        left = taken - sum(sizes[folder] for folder in others)
        if left + wanted > self.limit or wanted > free_bytes(self.folder) + taken - left:
            return False
        for folder in others:
            if taken + wanted <= self.limit:
                break
            try:
                remove(folder)
            except OSError as error:
                log.warning("cache: %s cannot be removed to make room: %s", folder, error.strerror)
                continue
            taken -= sizes[folder]
            log.info("cache: %s, which was used longest ago, is removed to make room", folder)
        return taken + wanted <= self.limit and wanted <= free_bytes(self.folder)

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


def remove(entry: Path) -> None:
    """Removes an entry; a run that reads it now still can.

    Raises:
        OSError: something of it cannot be removed, and is still there.
    """
    with suppress(FileNotFoundError):  # another process removes it, too
        shutil.rmtree(entry)


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
