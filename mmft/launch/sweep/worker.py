"""One job of a sweep in its own process: `Work`, and the setup of that process.

A job is passed as JSON text and its result as an exit code with messages, so that nothing of mmft is pickled but the
name of `Work`. Its output goes to the job's log; the sweep's own process prints results.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmft.launch.messages import outcome_of
from mmft.launch.rank import end_with_parent
from mmft.launch.rank_job import unpacked


class Outcome(NamedTuple):
    """How a job ended in its process: the exit code, and messages if it is not 0."""

    code: int
    messages: list[str]


class Work:
    """Callable that runs a packed job in a worker; submitit calls `checkpoint` when a job's time is up.

    Args:
        environment: variables to set, or to unset, in the worker.
        detached: the worker is still in the terminal's process group and must leave it.
    """

    def __init__(self, environment: Mapping[str, str | None], detached: bool = False) -> None:
        self.environment = dict(environment)
        self.detached = detached

    def __call__(self, job: str) -> tuple[int, list[str]]:
        """Trains, and returns an `Outcome` as plain values."""
        from mmft.launch.start import train_job

        if self.detached:
            os.setsid()
        for name, value in self.environment.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})
        return outcome_of(lambda: train_job(*unpacked(json.loads(job))))

    def checkpoint(self, job: str) -> Any:
        """Resubmits the job: the run resumes from its last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def settle_in() -> None:
    """Sets up a worker process: a terminal's Ctrl-C reaches only the sweep, and the worker ends with the sweep."""
    os.setsid()
    end_with_parent()


def work_in(log: str, job: str) -> tuple[int, list[str]]:
    """Calls `Work` with stdout and stderr, including those of subprocesses, appended to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with Path(log).open("a") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        return Work({})(job)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
