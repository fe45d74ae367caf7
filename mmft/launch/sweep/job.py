"""A run of a sweep, from when it is asked for until its result is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from mmft.config.compose import Composed, compose
from mmft.config.overrides import Typed
from mmft.errors import ExitCode, MmftError
from mmft.files import write_text
from mmft.launch.messages import report
from mmft.run_folder import RunFolder

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
    """How a job has ended.

    Attributes:
        job: the job.
        code: its exit code.
        messages: what went wrong, as far as the launcher knows it.
    """

    job: Job
    code: int
    messages: Sequence[str] = ()

    @classmethod
    def raised(cls, job: Job, error: Exception) -> Result:
        """Of a job that ended with an error, which is said on stderr."""
        text = str(error) if isinstance(error, MmftError) else f"{type(error).__name__}: {error}"
        return cls(job, report(error), [text])

    @property
    def stopped(self) -> bool:
        """Whether the sweep was meant, not this run alone."""
        return self.code in STOPPED

    def record(self) -> None:
        """Writes into the run folder that the job failed, where it could not: it was refused, or its process died."""
        import yaml

        if self.code == ExitCode.DONE or self.stopped:
            return
        folder = RunFolder(self.job.folder)
        if folder.peek().get("status") in (None, "running"):
            folder.update_summary(status="failed", error="\n".join(self.messages))
        if not (folder.path / "overrides.yaml").exists():
            write_text(folder.path / "overrides.yaml", yaml.safe_dump([*self.job.overrides], allow_unicode=True))


Ask = Callable[[], Job | None]
"""Gives the next job; None: there are no more."""


def varies(typed: Typed) -> bool:
    """Whether an override differs between a sweep's runs: it has several values, or a span of them."""
    return typed.span is not None or len(typed.texts) > 1


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
