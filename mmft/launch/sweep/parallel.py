"""Runs of a sweep in other processes: so many at a time, the next one asked for when one has ended.

`Parallel` has what joblib's and submitit's launchers share; each of them says how one job is started.
"""

# ruff: noqa: BLE001 - every error becomes an exit code
from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from mmft.errors import ExitCode
from mmft.launch.messages import report_messages
from mmft.launch.rank_job import packed
from mmft.launch.sweep.job import Ask, Job, Result
from mmft.launch.sweep.worker import Outcome
from mmft.signals import stop_signals

_POLL = 0.2


class Handle(Protocol):
    """One job that was started."""

    def done(self) -> bool:
        """Whether it has ended."""

    def outcome(self) -> Outcome:
        """How; a process that has died on its own is a failure of the training."""

    def stop(self, number: int) -> None:
        """Passes a signal on."""


class _Running(NamedTuple):
    job: Job
    handle: Handle


class Parallel(ABC):
    """Makes runs in other processes.

    Args:
        n_jobs: how many at the same time.
    """

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs
        self._running: list[_Running] = []

    @abstractmethod
    def start(self, job: Job, text: str) -> Handle:
        """Starts a job.

        Args:
            job: the job.
            text: what `Work` is to be called with.
        """

    def run(self, ask: Ask) -> Iterator[Result]:
        """Gives each result as soon as it is there; asks for the next job when there is room."""
        more = True
        with stop_signals() as request, request.passed_on(self._stop):
            while more or self._running:
                more = more and request.number is None
                while more and len(self._running) < self.n_jobs:
                    job = ask()
                    more = job is not None
                    if job is not None and (failed := self._start(job)) is not None:
                        yield failed
                for result in self._ended():
                    more = more and not result.stopped
                    yield result

    def _start(self, job: Job) -> Result | None:
        """Starts a job; gives the result of one that cannot be."""
        try:
            text = json.dumps(packed(job.compose(), job.folder))
            self._running.append(_Running(job, self.start(job, text)))
        except Exception as error:
            return Result.raised(job, error)
        return None

    def _ended(self) -> Iterator[Result]:
        """The results of jobs that have ended; waits a moment where there are none."""
        ended = [running for running in self._running if running.handle.done()]
        if not ended and self._running:
            time.sleep(_POLL)
        for running in ended:
            self._running.remove(running)
            code, messages = running.handle.outcome()
            if code == ExitCode.DONE:
                print(running.job.folder, flush=True)
            else:
                report_messages(messages)
            yield Result(running.job, code, messages)

    def _stop(self, number: int) -> None:
        """Ctrl-C and SIGTERM go on to the jobs, which save; no more are started."""
        for running in self._running:
            running.handle.stop(number)
