"""`hydra/launcher=joblib`: parallel runs on this machine, in processes of joblib's loky.

Each run has a pool of one process: if it dies (out of memory) no other run is affected, and its memory, also on a GPU,
is freed with the process.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmft.config.schema.sweep import JoblibLauncherConfig
from mmft.errors import ExitCode, first_line
from mmft.launch.sweep.job import Job
from mmft.launch.sweep.parallel import Parallel
from mmft.launch.sweep.worker import Outcome, settle_in, work_in


class JoblibLauncher(Parallel):
    """Executes runs in joblib's processes.

    Args:
        settings: `hydra.launcher`.
        folder: the sweep's; output of runs goes to `.joblib/NUMBER.log` in it.
    """

    def __init__(self, settings: JoblibLauncherConfig, folder: Path) -> None:
        cores = len(os.sched_getaffinity(0))
        super().__init__(cores if settings.n_jobs == -1 else settings.n_jobs)
        self.folder = folder
        self.environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // self.n_jobs)))}

    def start(self, job: Job, text: str) -> _Handle:
        """Starts a process for the job."""
        from joblib.externals.loky import ProcessPoolExecutor

        pool = ProcessPoolExecutor(1, initializer=settle_in, env=self.environment)
        number: int = pool.submit(os.getpid).result()
        log = self.folder / ".joblib" / f"{job.number}.log"
        return _Handle(pool, number, pool.submit(work_in, str(log.absolute()), text))


class _Handle:
    def __init__(self, pool: Any, number: int, future: Future[Any]) -> None:
        self.pool, self.number, self.future = pool, number, future

    def done(self) -> bool:
        return self.future.done()

    def outcome(self) -> Outcome:
        error = self.future.exception()
        self.pool.shutdown(wait=True, kill_workers=True)
        if error is None:
            return Outcome(*self.future.result())
        reason = first_line(error)
        return Outcome(ExitCode.TRAINING, [f"Process {self.number}, which executed the run, died: {reason}"])

    def stop(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.number, number)
