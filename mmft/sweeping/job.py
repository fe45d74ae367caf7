"""A run of a sweep, from when it is asked for until its result is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from mmft.config.compose import Composed, compose
from mmft.errors import ExitCode

STOPPED = (ExitCode.INTERRUPTED, ExitCode.TERMINATED)


@dataclass(frozen=True)
class Job:
    """One run that is to be made.

    Attributes:
        number: among the sweep's.
        overrides: what one would type for it alone.
        config_dirs: folders of YAML files of the user's.
        folder: the run folder.
    """

    number: int
    overrides: Sequence[str]
    config_dirs: Sequence[Path]
    folder: Path

    def compose(self) -> Composed:
        """Its config, judged like any other's.

        Raises:
            UserError: with everything that is wrong.
        """
        return compose("train", self.overrides, self.config_dirs)


class Result(NamedTuple):
    """How a job has ended."""

    job: Job
    code: int

    @property
    def stopped(self) -> bool:
        """Whether the sweep was meant, not this run alone."""
        return self.code in STOPPED


Ask = Callable[[], Job | None]
"""Gives the next job; None: there are no more."""


class Sweeper(Protocol):
    """Says which runs are made."""

    def ask(self) -> Job | None:
        """The next job; None: there are no more."""

    def tell(self, result: Result) -> None:
        """Takes the result of a job that was asked for."""


class Launcher(Protocol):
    """Makes the runs."""

    def run(self, ask: Ask) -> Iterator[Result]:
        """Gives each result as soon as it is there, and asks for the next job after that.

        Asks for no more jobs once one was stopped.
        """
