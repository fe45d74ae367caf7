"""What a command costs: seconds, seconds of processor and memory of all its processes, what it leaves on the disk."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

INTERVAL = 0.5  # seconds between two looks at the memory


class Cost(NamedTuple):
    """Of a command that has ended."""

    exit_code: int
    wall_seconds: float
    cpu_seconds: float  # user and system, of the process and all its descendants that it waited for
    peak_memory_bytes: int  # the largest sum over its processes; what they share counts once


def run(command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path) -> Cost:
    """Runs a command to its end.

    Args:
        command: the program and its arguments.
        environment: all its environment variables.
        log: the file for what it prints, stdout and stderr.
        folder: where it runs.
    """
    peak = 0
    with log.open("wb") as file:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=dict(environment), stdout=file, stderr=file, cwd=folder)
        try:
            while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
                peak = max(peak, memory(process.pid))
                time.sleep(INTERVAL)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    usage = ended[2]
    # Its ru_maxrss would not do: it is that of one process, and begins with that of the program that started it.
    return Cost(process.returncode, wall, usage.ru_utime + usage.ru_stime, peak)


def memory(pid: int) -> int:
    """Bytes of a process and its descendants: of what several share, each counts its share (PSS)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)):
            children.setdefault(parent, []).append(int(entry.name))
    tree = [pid]
    for one in tree:  # grows on the way
        tree += children.get(one, [])
    return sum(_proportional(one) for one in tree)


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended meanwhile
        return None


def _proportional(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended meanwhile
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def size(folder: Path) -> int:
    """Bytes of all files below a folder; a file with several names counts once."""
    files = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            files[status.st_ino] = status.st_size
    return sum(files.values())
