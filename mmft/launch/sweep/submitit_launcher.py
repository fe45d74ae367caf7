"""`hydra/launcher=submitit_local` and `submitit_slurm`: each run is a submitit job with a time limit.

submitit's files (the submitted job, its log, its result) are in `.submitit/JOB` in the sweep's folder.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmft.config.schema.sweep import SubmititConfig, SubmititSlurmConfig
from mmft.errors import ExitCode, UserError
from mmft.launch.sweep.job import Job
from mmft.launch.sweep.parallel import Parallel
from mmft.launch.sweep.worker import Outcome, Work

_OWN = ("n_jobs", "max_num_timeout")  # settings of the launcher, not of a job
_GENERAL = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "name")
"""Parameters with the same name on every cluster; others are prefixed by the cluster's name."""


class SubmititLauncher(Parallel):
    """Executes runs through submitit.

    Args:
        settings: `hydra.launcher`.
        folder: the sweep's.

    Raises:
        UserError: submitit rejects the settings.
    """

    def __init__(self, settings: SubmititConfig, folder: Path) -> None:
        import submitit

        super().__init__(settings.n_jobs)
        cluster = "slurm" if isinstance(settings, SubmititSlurmConfig) else "local"
        # On this machine submitit hides the GPUs that a job does not ask for.
        hidden = cluster == "local" and settings.gpus_per_node is None
        shown = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")} if hidden else {}
        self.work = Work(shown, detached=cluster == "local")
        again: Any = {f"{cluster}_max_num_timeout": settings.max_num_timeout}
        self.executor = submitit.AutoExecutor(folder / ".submitit" / "%j", cluster=cluster, **again)
        try:
            self.executor.update_parameters(**parameters(settings, cluster))
        except (ValueError, NameError, TypeError) as error:
            raise UserError(f"hydra.launcher: submitit rejects it: {error}") from error

    def start(self, job: Job, text: str) -> _Handle:  # noqa: ARG002 - any launcher's signature
        """Submits the job, shielding submitit's own process from a terminal's Ctrl-C, which would kill it at once."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return _Handle(self.executor.submit(self.work, text), local=self.work.detached)
        finally:
            signal.signal(signal.SIGINT, before)


def parameters(settings: SubmititConfig, cluster: str) -> dict[str, Any]:
    """The given settings under submitit's names: one node and one task, whose process starts a run's ranks itself."""
    given = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in _OWN}
    given = {name: value for name, value in given.items() if value is not None}
    named = {name if name in _GENERAL else f"{cluster}_{name}": value for name, value in given.items()}
    return named | {"nodes": 1, "tasks_per_node": 1}


class _Handle:
    def __init__(self, job: Any, local: bool) -> None:
        self.job, self.local = job, local

    def done(self) -> bool:
        return bool(self.job.done())

    def outcome(self) -> Outcome:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            return Outcome(*self.job.result())
        except (UncompletedJobError, FailedJobError) as error:
            first = " ".join(str(error).split("\n")[:2])
            return Outcome(ExitCode.TRAINING, [f"Job {self.job.job_id} returned no result: {first}"])

    def stop(self, number: int) -> None:  # noqa: ARG002 - submitit and SLURM pass on only SIGTERM
        if self.local:
            with suppress(ProcessLookupError):
                os.kill(int(self.job.job_id), signal.SIGTERM)  # `cancel` leaves a run one second
        else:
            self.job.cancel(check=False)
