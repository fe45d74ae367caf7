"""Runs of a sweep in other processes: a limited number at a time, asking for the next one when one has ended.

`Parallel` has what joblib's and submitit's launchers share; each implements starting one job.
"""

# ruff: noqa: BLE001 - every error becomes an exit code
from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from mmft.commands.output import print_path
from mmft.errors import ExitCode
from mmft.launch.messages import report_messages
from mmft.launch.rank_job import packed
from mmft.launch.sweep.job import Ask, Job, Result
from mmft.launch.sweep.worker import Outcome
from mmft.signals import stop_signals

_POLL = 0.2


class Handle(Protocol):
    """One started job."""

    def done(self) -> bool:
        """Whether it has ended."""

    def outcome(self) -> Outcome:
        """How it ended; a process that died on its own counts as failed training."""

    def stop(self, number: int) -> None:
        """Passes a signal on."""


class _Running(NamedTuple):
    job: Job
    handle: Handle


class Parallel(ABC):
    """Executes runs in other processes.

    Args:
        n_jobs: maximum number of concurrent runs.
    """

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs
        self._running: list[_Running] = []

    @abstractmethod
    def start(self, job: Job, text: str) -> Handle:
        """Starts a job.

        Args:
            job: the job.
            text: the argument for `Work`.
        """

    def run(self, ask: Ask) -> Iterator[Result]:
        """Yields each result as soon as it is available; asks for the next job when a slot is free."""
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
        """Starts a job; returns a result if it cannot be started."""
        try:
            text = json.dumps(packed(job.compose(), job.folder))
            self._running.append(_Running(job, self.start(job, text)))
        except Exception as error:
            return Result.raised(job, error)
        return None

    def _ended(self) -> Iterator[Result]:
        """Results of jobs that have ended; waits briefly if there are none."""
        ended = [running for running in self._running if running.handle.done()]
        if not ended and self._running:
            time.sleep(_POLL)
        for running in ended:
            self._running.remove(running)
            code, messages = running.handle.outcome()
            if code == ExitCode.DONE:
                print_path(running.job.folder)
            else:
                report_messages(messages)
            yield Result(running.job, code, messages)

    def _stop(self, number: int) -> None:
        """Passes Ctrl-C or SIGTERM on to the jobs, which save; no more are started."""
        for running in self._running:
            running.handle.stop(number)
