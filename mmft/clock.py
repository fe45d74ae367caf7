"""Measures time from the start of the process, for `startup_seconds` and `import_seconds`, and puts it in words."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Spent(NamedTuple):
    """Seconds of wall and of CPU time."""

    wall: float
    cpu: float

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)

    def __add__(self, other: tuple[float, ...]) -> Spent:  # type: ignore[override]
        return Spent(self.wall + other[0], self.cpu + other[1])


_LOADED = time.perf_counter()
_imports = Spent(0.0, 0.0)
_depth = 0
_jobs = 0


def since_start() -> Spent:
    """Time since this process started."""
    return Spent(_wall_since_start(), time.process_time())


def job_start() -> Spent:
    """When this job began: at process start, or now if the process has run a job before (a sweep)."""
    global _jobs
    _jobs += 1
    return Spent(0.0, 0.0) if _jobs == 1 else since_start()


@contextmanager
def importing() -> Iterator[None]:
    """Counts the time spent in its block as import time; nested blocks count once."""
    global _imports, _depth
    before = since_start()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            _imports += since_start() - before


def spent_importing() -> Spent:
    """Total time spent in `importing` blocks so far."""
    return _imports


def _wall_since_start() -> float:
    try:
        started = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
        return uptime - started / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # not Linux
        return time.perf_counter() - _LOADED


def in_words(seconds: float) -> str:
    """A duration, readable: `90 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
