"""Cache of prepared data between jobs of one process, so that a sweep reads, tokenises and decodes only once.

Stale results are never reused: keys contain sizes and times of the files and everything else the result depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class JobCache:
    """Results by key, kept as long as each job requests them again."""

    def __init__(self) -> None:
        self._now: dict[Hashable, Any] = {}
        self._before: dict[Hashable, Any] = {}

    def next_job(self) -> None:
        """Starts a job, which may reuse the results of the previous one."""
        self._before, self._now = self._now, {}

    def all_is_asked(self) -> None:
        """Drops unused results of the previous job, once the current job has made all its requests."""
        self._before = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make` for this key, from this job or the previous one."""
        if key not in self._now:
            self._now[key] = self._before.pop(key) if key in self._before else make()
        found: T = self._now[key]
        return found


JOB_CACHE = JobCache()


def stamps(files: Iterable[str | Path]) -> tuple[tuple[str, int, int], ...]:
    """The `stamp` of each file."""
    return tuple(map(stamp, files))


def stamp(file: str | Path) -> tuple[str, int, int]:
    """A value that changes with a file: path, modification time (ns) and size; -1 if it cannot be accessed."""
    path = Path(file)
    try:
        status = path.stat()
    except (OSError, ValueError):
        return str(path), -1, -1
    return str(path.absolute()), status.st_mtime_ns, status.st_size
