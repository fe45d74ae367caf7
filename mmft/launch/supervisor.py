"""Supervises the ranks on this machine: starts one process each, monitors them, and ends them together.

The process that the user started does no training itself. It gives every rank the same composed config, so that a sweep
has the same job on all of them, passes signals on, and ends the job when a rank dies, or is silent for longer than
`trainer.rank_timeout` while others wait for it; the error names that rank. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmft.config.compose import Composed
from mmft.errors import ExitCode, MmftError, TrainingError, UserError
from mmft.launch.rank_job import packed
from mmft.ranks import HEARTBEAT_FD
from mmft.run_folder import RunFolder
from mmft.signals import Stopped, StopRequest, stop_signals

log = logging.getLogger(__name__)
GRACE = 5.0
"""Seconds for the other ranks to end by themselves, and then after a signal."""
_POLL = 0.2
_WORDS = {"r": "run", "w": "wait", "i": "idle"}


@dataclass
class Rank:
    """One process, from the supervisor's side."""

    number: int
    process: subprocess.Popen[bytes]
    pipe: int
    state: str = "idle"
    heard: float = field(default_factory=time.monotonic)
    said: str = ""

    def listen(self) -> None:
        """Reads pending output: single letters are heartbeats, everything from `{` on is the rank's result."""
        text = os.read(self.pipe, 65536).decode("utf-8", "replace")
        self.heard = time.monotonic()
        if self.said:
            self.said += text
            return
        beats, brace, rest = text.partition("{")
        self.said = brace + rest
        if beats:
            self.state = _WORDS[beats[-1]]

    @property
    def result(self) -> dict[str, Any] | None:
        """The rank's exit code and messages, once it has sent them."""
        with contextlib.suppress(ValueError):
            return dict(json.loads(self.said))
        return None

    @property
    def name(self) -> str:
        """`rank 1 (process 4711)`."""
        return f"rank {self.number} (process {self.process.pid})"


def devices_of(composed: Composed) -> int:
    """Number of ranks for this machine.

    Raises:
        UserError: all GPUs are requested but there are none.
    """
    settings = composed.config.trainer
    if settings.devices is None:
        count = 0 if settings.accelerator == "cpu" else _gpus()
        if not count:
            raise UserError(
                "trainer.devices: null means all GPUs, but there are none. On a CPU type the number of processes, "
                "for example trainer.devices=2."
            )
        settings.devices = count
    return int(settings.devices)


def _gpus() -> int:
    """Number of GPUs that torch sees, determined in a subprocess so that this process does not import torch."""
    asked = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], capture_output=True, check=False
    )
    return int(asked.stdout or 0)


def supervise(composed: Composed, path: Path, world: int) -> int:
    """Runs `mmft train` on `world` ranks in the run folder `path`.

    Returns:
        The exit code: that of the first rank to end with a non-zero one.

    Raises:
        MmftError: a rank raised it, died, or stalled.
    """
    ranks: list[Rank] = []
    with stop_signals() as request, request.passed_on(lambda number: _signal(ranks, number)):
        request.check()
        try:
            _start(composed, path, world, ranks)
            if request.number is not None:
                _signal(ranks, request.number)  # some had not started when it arrived
            failure = _watch(ranks, path, composed.config.trainer.rank_timeout, request)
        finally:
            _end(ranks)
        if failure is None:
            return ExitCode.DONE
        if ranks[0].process.returncode == ExitCode.DONE and RunFolder(path).is_completed:
            log.warning("%s The run itself is complete.", failure)  # a rank failed after everything was done
            return ExitCode.DONE
        _record(RunFolder(path), failure)
        raise failure


def _start(composed: Composed, path: Path, world: int, ranks: list[Rank]) -> None:
    """Starts the ranks, appending each to `ranks` at once."""
    job = packed(composed, path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "NODE_RANK": "0"}
    shared |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // world)))}
    for number in range(world):
        ranks.append(_start_rank(number, os.environ | shared, json.dumps(job).encode()))  # noqa: PERF401 - for a signal in between


def _start_rank(number: int, environment: dict[str, str], job: bytes) -> Rank:
    listens, speaks = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "mmft.launch.rank"],
        env=environment | {"RANK": str(number), "LOCAL_RANK": str(number), HEARTBEAT_FD: str(speaks)},
        stdin=subprocess.PIPE,
        stdout=None if number == 0 else subprocess.DEVNULL,
        pass_fds=[speaks],
        start_new_session=True,  # so that a terminal's Ctrl-C arrives once, from us
    )
    os.close(speaks)
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(job)
    return Rank(number, process, listens)


def _watch(ranks: list[Rank], path: Path, timeout: float, request: StopRequest) -> MmftError | None:
    """Waits until all ranks have ended or one has failed; returns the failure."""
    selector = selectors.DefaultSelector()
    for rank in ranks:
        selector.register(rank.pipe, selectors.EVENT_READ, rank)
    while any(rank.process.poll() is None for rank in ranks):
        for key, _ in selector.select(_POLL):
            key.data.listen()
            if key.data.process.poll() is not None:
                selector.unregister(key.fileobj)
        failed = [rank for rank in ranks if rank.process.poll() not in (None, 0)]
        if failed:
            return _failure(failed[0], ranks, path, request)
        if stalled := _stalled(ranks, timeout):
            return TrainingError(
                f"{' and '.join(rank.name for rank in stalled)} made no progress for {timeout:g} s "
                "(trainer.rank_timeout) while the others waited. All ranks were stopped."
            )
    failed = [rank for rank in ranks if rank.process.returncode != 0]
    return _failure(failed[0], ranks, path, request) if failed else None


def _failure(first: Rank, ranks: list[Rank], path: Path, request: StopRequest) -> MmftError:
    """The error of the rank that failed first; waits briefly for a rank with a more informative one."""
    end = time.monotonic() + GRACE
    while time.monotonic() < end and any(rank.process.poll() is None for rank in ranks):
        time.sleep(_POLL)
    for rank in ranks:
        with contextlib.suppress(OSError):
            os.set_blocking(rank.pipe, False)
            rank.listen()
    code = first.process.returncode
    if code < 0 and request.number is None:
        dead = f"{first.name} was killed by {signal.Signals(-code).name}"
        return TrainingError(f"{dead}. All ranks were stopped. {RunFolder(path).way_on()}")
    told = [result for rank in (first, *ranks) if (result := rank.result) and result["code"]]
    told.sort(key=lambda result: result["code"] == ExitCode.DEFECT)  # as errors about a lost peer are
    if told:
        return Failed(told[0]["code"], told[0]["messages"])
    if request.number is not None:  # it arrived before the ranks could handle it
        return Stopped(request.number)
    return Failed(ExitCode.DEFECT, [f"{first.name} ended with code {code} without a message."])


class Failed(MmftError):
    """Re-raises an error of a rank.

    Args:
        code: its exit code.
        messages: its messages.
    """

    def __init__(self, code: int, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages
        self.exit_code = ExitCode(code) if code in list(ExitCode) else ExitCode.DEFECT


def _stalled(ranks: list[Rank], timeout: float) -> list[Rank]:
    """Ranks that others have waited for too long; none while any rank progresses or is outside training."""
    now = time.monotonic()
    training = all(rank.state in ("run", "wait") for rank in ranks)
    if not training or any(now - rank.heard <= timeout for rank in ranks):
        return []
    return [rank for rank in ranks if rank.state == "run" or _suspended(rank)] or ranks


def _suspended(rank: Rank) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{rank.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def _signal(ranks: list[Rank], number: int) -> None:
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            rank.process.send_signal(number)


def _end(ranks: list[Rank]) -> None:
    """Ends all ranks and every process that they started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [rank for rank in ranks if rank.process.poll() is None]
        _signal(alive, number)
        end = time.monotonic() + (GRACE if number == signal.SIGTERM else 1.0)
        while time.monotonic() < end and any(rank.process.poll() is None for rank in alive):
            time.sleep(_POLL)
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(rank.process.pid, signal.SIGKILL)  # its session, with workers that it left behind
        rank.process.wait()
        os.close(rank.pipe)


def _record(folder: RunFolder, failure: MmftError) -> None:
    """Records the failure in case the first rank was ended before it could."""
    status = folder.read_summary().get("status")
    if failure.exit_code >= ExitCode.INTERRUPTED:
        if status == "running":
            folder.update_summary(status="stopped")
    elif status in ("running", "failed"):
        folder.update_summary(status="failed", error=str(failure))
