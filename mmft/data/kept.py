"""What one job has prepared, for the next one in the same process: a sweep reads, tokenises and decodes once.

Nothing is taken over that could have changed: keys hold the files' sizes and times and everything that the result
depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Kept:
    """Results by key, for as long as each job asks for them again."""

    def __init__(self) -> None:
        self._now: dict[Hashable, Any] = {}
        self._before: dict[Hashable, Any] = {}

    def next_job(self) -> None:
        """A job begins; it may have what the one before it has prepared."""
        self._before, self._now = self._now, {}

    def all_is_asked(self) -> None:
        """The job that runs now will not ask for more: what is left of the one before it is forgotten."""
        self._before = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` has given for this key, in this job or the one before it."""
        if key not in self._now:
            self._now[key] = self._before.pop(key) if key in self._before else make()
        found: T = self._now[key]
        return found


KEPT = Kept()


def stamp(file: str | Path) -> tuple[str, int, int]:
    """What changes when a file does: its path, time of change (ns) and size; -1 where it cannot be looked at."""
    path = Path(file)
    try:
        status = path.stat()
    except (OSError, ValueError):
        return str(path), -1, -1
    return str(path.absolute()), status.st_mtime_ns, status.st_size
