"""A run of a sweep, and its result."""

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
    """One run to execute.

    Attributes:
        number: its number in the sweep.
        overrides: what one would type for this run alone.
        config_dirs: the user's folders of YAML files.
        folder: the run folder.
    """

    number: int
    overrides: Sequence[str]
    config_dirs: Sequence[Path]
    folder: Path

    def compose(self) -> Composed:
        """Composes and validates its config like any other.

        Raises:
            UserError: with all errors.
        """
        return compose("train", self.overrides, self.config_dirs)


class Result(NamedTuple):
    """How a job ended.

    Attributes:
        job: the job.
        code: its exit code.
        messages: what went wrong, as far as the launcher knows.
    """

    job: Job
    code: int
    messages: Sequence[str] = ()

    @classmethod
    def raised(cls, job: Job, error: Exception) -> Result:
        """The result of a job that ended with an error, which is reported on stderr."""
        text = str(error) if isinstance(error, MmftError) else f"{type(error).__name__}: {error}"
        return cls(job, report(error), [text])

    @property
    def stopped(self) -> bool:
        """Whether the whole sweep was stopped, not only this run."""
        return self.code in STOPPED

    def record(self) -> None:
        """Records the failure in the run folder if the job could not: it was rejected, or its process died."""
        import yaml

        if self.code == ExitCode.DONE or self.stopped:
            return
        folder = RunFolder(self.job.folder)
        if folder.peek().get("status") in (None, "running"):
            folder.update_summary(status="failed", error="\n".join(self.messages))
        if not folder.overrides.exists():
            write_text(folder.overrides, yaml.safe_dump([*self.job.overrides], allow_unicode=True))


Ask = Callable[[], Job | None]
"""Returns the next job; None if there are no more."""


def varies(typed: Typed) -> bool:
    """Whether an override differs between a sweep's runs: it has several values or an interval."""
    return typed.span is not None or len(typed.texts) > 1


class Sweeper(Protocol):
    """Chooses the runs."""

    def ask(self) -> Job | None:
        """The next job; None if there are no more."""

    def tell(self, result: Result) -> None:
        """Receives the result of a job that was asked for."""


class Launcher(Protocol):
    """Executes the runs."""

    def run(self, ask: Ask) -> Iterator[Result]:
        """Yields each result as soon as it is available, then asks for the next job.

        Asks for no more jobs once one was stopped.
        """
