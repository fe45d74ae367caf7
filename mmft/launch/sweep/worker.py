"""One job of a sweep in a process of its own: `Work`, and what it needs of that process.

A job travels as JSON text, and its result as an exit code with messages, so that nothing of ours is pickled but the
name of `Work`. What it prints goes to the job's log; the sweep's own process says what was asked for.
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
    """How a job ended in its process: the exit code, and what to say where it is not 0."""

    code: int
    messages: list[str]


class Work:
    """What a worker calls with a packed job; submitit calls `checkpoint` when a job's time is up.

    Args:
        environment: variables that are to be set, or not to be there, in the worker.
        detached: the worker is still in the terminal's process group, and leaves it.
    """

    def __init__(self, environment: Mapping[str, str | None], detached: bool = False) -> None:
        self.environment = dict(environment)
        self.detached = detached

    def __call__(self, job: str) -> tuple[int, list[str]]:
        """Trains, and gives an `Outcome` as plain values."""
        from mmft.launch.start import train_job

        if self.detached:
            os.setsid()
        for name, value in self.environment.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})
        return outcome_of(lambda: train_job(*unpacked(json.loads(job))))

    def checkpoint(self, job: str) -> Any:
        """The same job once more: the run goes on from its last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def settle_in() -> None:
    """Begins a worker process: the terminal's Ctrl-C reaches the sweep alone, and the sweep's end ends this too."""
    os.setsid()
    end_with_parent()


def work_in(log: str, job: str) -> tuple[int, list[str]]:
    """`Work` with stdout and stderr, those of processes that it starts too, at the end of a file."""
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
