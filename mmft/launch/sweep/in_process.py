"""`hydra/launcher=basic`: one run after the other, in this process (or in its ranks, if a run has several)."""

# ruff: noqa: BLE001 - every error becomes an exit code
from __future__ import annotations

from collections.abc import Iterator

from mmft.launch.start import train_job
from mmft.launch.sweep.job import Ask, Job, Result


class InProcess:
    """Executes runs in this process."""

    def run(self, ask: Ask) -> Iterator[Result]:
        """Executes one run after the other; a run that fails reports it and does not stop the others."""
        while (job := ask()) is not None:
            result = _made(job)
            yield result
            if result.stopped:
                return


def _made(job: Job) -> Result:
    try:
        return Result(job, train_job(job.compose(), job.folder))
    except Exception as error:
        return Result.raised(job, error)
