"""`mmft` commands in forked processes, ranks too: as real as in processes of their own, without their imports.

What this process has imported, every command has; the supervisor's ranks are forked as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mmft import logs, signals
from mmft.cli import main as cli
from mmft.launch import rank, supervisor
from mmft.ranks import HEARTBEAT_FD

# Before torch.export, after which the first backward starts threads, and no forked process can train any more.
torch.ones((), requires_grad=True).backward()

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans(on: bool) -> None:
    """What outlives a command becomes a child of this process, so that `children` tells of it, and is to be buried."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on))


def children(pid: int) -> list[int]:
    """The processes that `pid` has started and that still are there, in the order of starting."""
    with contextlib.suppress(OSError):
        return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def left_over(known: set[int], seconds: float) -> list[int]:
    """Children of this process besides the known ones that are there after so many seconds; the dead are buried."""
    end = time.monotonic() + seconds
    while True:
        left = [pid for pid in children(os.getpid()) if pid not in known]
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.05)


class Forked:
    """A forked process with what is used of `subprocess.Popen`."""

    def __init__(self, work: Callable[[], int]) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            signals._owner = None  # its parent's
            torch.set_num_threads(1)  # the parent's pool has no threads here: who uses it hangs
            try:
                code = work()
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if done else None
        return self.returncode

    def wait(self, timeout: float = 600.0) -> int:
        """The exit code once it has ended."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < end, f"process {self.pid} does not end"
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends its process group, if it still runs."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()


def command(
    argv: list[str],
    out: Path,
    errors: Path | None = None,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Forked:
    """`mmft ARGV` in a session of its own; what it prints goes to the file `out`, or its messages to `errors`."""

    def work() -> int:
        _on_its_own()
        _write_to(out, errors or out)
        if stdin is not None:
            sys.stdin = io.StringIO(stdin)
        os.chdir(cwd or Path.cwd())
        os.environ.update(env or {})
        supervisor._start_rank = _fork_rank  # type: ignore[assignment]
        return cli.main(argv)

    return Forked(work)


def _on_its_own() -> None:
    """A session, no handlers for messages, and what signals do at the start of a process."""
    os.setsid()
    logs.close()  # of a command that this process ran itself: it would write to where stderr was then
    for logger in (logging.root, logging.getLogger("mmft")):  # pytest's
        logger.handlers.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _write_to(out: Path, errors: Path) -> None:
    for standard, path in ((1, out), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), standard)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)


def _fork_rank(number: int, environment: dict[str, str], job: bytes) -> supervisor.Rank:
    listens, speaks = os.pipe()

    def work() -> int:
        _on_its_own()
        os.environ |= environment | {"RANK": str(number), "LOCAL_RANK": str(number), HEARTBEAT_FD: str(speaks)}
        sys.stdin = io.StringIO(job.decode())
        return rank.main()

    process: Any = Forked(work)
    os.close(speaks)
    return supervisor.Rank(number, process, listens)
