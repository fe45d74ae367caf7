"""Ranks started by torchrun or srun: the first one leads, the others run the jobs that it announces.

Only the leader composes, sweeps and creates folders, so that all ranks of a sweep run the same job in one folder,
whatever its sweeper draws.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmft.config.compose import Composed
from mmft.errors import ExitCode, MmftError
from mmft.launch.rank_job import packed, unpacked
from mmft.ranks import environment_kept, started
from mmft.training.parallel.rendezvous import store

_jobs = 0


def announce(composed: Composed, folder: Path) -> None:
    """Announces the next job to the other ranks."""
    _say(packed(composed, folder))


def lead(command: Callable[[], int]) -> int:
    """Runs the leader's command and then, however it ended, releases the other ranks."""
    code: int = ExitCode.DEFECT
    try:
        code = command()
    except MmftError as error:
        code = error.exit_code
        raise
    finally:
        _say({"end": int(code)})
        for rank in range(1, started().world):  # the store ends with this process, so wait until they have read it
            store().wait([f"bye{rank}"], timedelta(seconds=60))
    return code


def follow() -> int:
    """Runs the leader's jobs until there are no more; returns the leader's exit code."""
    from mmft.commands.train import train

    while "end" not in (job := _hear()):
        try:
            with environment_kept():
                train(*unpacked(job))
        except MmftError as error:
            if error.exit_code >= ExitCode.INTERRUPTED:
                raise
            print(f"mmft: rank {started().rank}: {error}", file=sys.stderr)  # the leader may not have this one
    store().set(f"bye{started().rank}", "")
    return int(job["end"])


def _say(job: dict[str, Any]) -> None:
    global _jobs
    store().set(f"job{_jobs}", json.dumps(job))
    _jobs += 1


def _hear() -> dict[str, Any]:
    global _jobs
    _jobs += 1
    return dict(json.loads(store().get(f"job{_jobs - 1}")))
