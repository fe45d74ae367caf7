"""Several ranks on this machine: starts one process for each, listens to them, and ends them together.

The process that the user started does no training itself. It gives every rank the same finished config, so that a
sweep has the same job on all of them, passes signals on, and ends the job, by name, when a rank dies or is silent
for longer than `trainer.rank_timeout` while others wait for it. Imports no torch.
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
"""Seconds that the other ranks have to end by themselves, and then to end when asked."""
_POLL = 0.2
_WORDS = {"r": "run", "w": "wait", "i": "idle"}


@dataclass
class Rank:
    """One process as the supervisor sees it."""

    number: int
    process: subprocess.Popen[bytes]
    pipe: int
    state: str = "idle"
    heard: float = field(default_factory=time.monotonic)
    said: str = ""

    def listen(self) -> None:
        """Takes what has come: single letters are heartbeats, everything from `{` on is the rank's last word."""
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
        """The rank's exit code and messages, once it has said them."""
        with contextlib.suppress(ValueError):
            return dict(json.loads(self.said))
        return None

    @property
    def name(self) -> str:
        """`rank 1 (process 4711)`."""
        return f"rank {self.number} (process {self.process.pid})"


def devices_of(composed: Composed) -> int:
    """How many ranks this machine is to have.

    Raises:
        UserError: all GPUs are asked for and there are none.
    """
    settings = composed.config.trainer
    if settings.devices is None:
        count = 0 if settings.accelerator == "cpu" else _gpus()
        if not count:
            raise UserError(
                "trainer.devices: null means all GPUs, and there are none. On a CPU type how many processes are "
                "wanted, for example trainer.devices=2."
            )
        settings.devices = count
    return int(settings.devices)


def _gpus() -> int:
    """How many GPUs torch sees; asked in a process of its own, because this one stays without torch."""
    asked = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], capture_output=True, check=False
    )
    return int(asked.stdout or 0)


def supervise(composed: Composed, path: Path, world: int) -> int:
    """Runs `mmft train` on `world` ranks in the run folder `path`.

    Returns:
        The exit code: that of the first rank to end with another than 0.

    Raises:
        MmftError: what a rank raised, or that one died or came no further.
    """
    ranks: list[Rank] = []
    with stop_signals() as request, request.passed_on(lambda number: _signal(ranks, number)):
        request.check()
        try:
            _start(composed, path, world, ranks)
            if request.number is not None:
                _signal(ranks, request.number)  # not all of them were there when it came
            failure = _watch(ranks, path, composed.config.trainer.rank_timeout, request)
        finally:
            _end(ranks)
        if failure is None:
            return ExitCode.DONE
        if ranks[0].process.returncode == ExitCode.DONE and RunFolder(path).is_completed:
            log.warning("%s The run itself is complete.", failure)  # it ended badly after all was done
            return ExitCode.DONE
        _record(RunFolder(path), failure)
        raise failure


def _start(composed: Composed, path: Path, world: int, ranks: list[Rank]) -> None:
    """Starts them, each one added to `ranks` as soon as it is there."""
    job = packed(composed, path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "NODE_RANK": "0"}
    shared |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // world)))}
    for number in range(world):
        ranks.append(_start_rank(number, os.environ | shared, json.dumps(job).encode()))  # noqa: PERF401 - a signal in between finds those that are there


def _start_rank(number: int, environment: dict[str, str], job: bytes) -> Rank:
    listens, speaks = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "mmft.launch.rank"],
        env=environment | {"RANK": str(number), "LOCAL_RANK": str(number), HEARTBEAT_FD: str(speaks)},
        stdin=subprocess.PIPE,
        stdout=None if number == 0 else subprocess.DEVNULL,
        pass_fds=[speaks],
        start_new_session=True,  # a terminal's Ctrl-C comes once, from us
    )
    os.close(speaks)
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(job)
    return Rank(number, process, listens)


def _watch(ranks: list[Rank], path: Path, timeout: float, request: StopRequest) -> MmftError | None:
    """Until all ranks have ended or one has failed; gives what failed."""
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
                f"{' and '.join(rank.name for rank in stalled)} did not come on for {timeout:g} s "
                "(trainer.rank_timeout) while the others waited. All ranks are ended."
            )
    failed = [rank for rank in ranks if rank.process.returncode != 0]
    return _failure(failed[0], ranks, path, request) if failed else None


def _failure(first: Rank, ranks: list[Rank], path: Path, request: StopRequest) -> MmftError:
    """What the rank that failed first has said; waits a little for one that says more."""
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
        return TrainingError(
            f"{dead}. All ranks are ended; to go on from the last checkpoint: mmft train resume={path}"
        )
    told = [result for rank in (first, *ranks) if (result := rank.result) and result["code"]]
    told.sort(key=lambda result: result["code"] == ExitCode.DEFECT)  # what a lost peer's error is, too
    if told:
        return Failed(told[0]["code"], told[0]["messages"])
    if request.number is not None:  # it came before a rank could hear it
        return Stopped(request.number)
    return Failed(ExitCode.DEFECT, [f"{first.name} ended with code {code} and did not say why."])


class Failed(MmftError):
    """What a rank raised, raised again here.

    Args:
        code: its exit code.
        messages: its messages.
    """

    def __init__(self, code: int, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages
        self.exit_code = ExitCode(code) if code in list(ExitCode) else ExitCode.DEFECT


def _stalled(ranks: list[Rank], timeout: float) -> list[Rank]:
    """The ranks that others have waited for too long; none while a rank comes on or is outside training."""
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
    """No rank, and no process that a rank has started, is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [rank for rank in ranks if rank.process.poll() is None]
        _signal(alive, number)
        end = time.monotonic() + (GRACE if number == signal.SIGTERM else 1.0)
        while time.monotonic() < end and any(rank.process.poll() is None for rank in alive):
            time.sleep(_POLL)
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(rank.process.pid, signal.SIGKILL)  # its session: workers that it left behind
        rank.process.wait()
        os.close(rank.pipe)


def _record(folder: RunFolder, failure: MmftError) -> None:
    """The first rank may have been ended before it could write how."""
    status = folder.read_summary().get("status")
    if failure.exit_code >= ExitCode.INTERRUPTED:
        if status == "running":
            folder.update_summary(status="stopped")
    elif status in ("running", "failed"):
        folder.update_summary(status="failed", error=str(failure))
