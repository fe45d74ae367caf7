"""Ranks that torchrun or srun started: the first one leads, the others do the jobs that it announces.

Only the leader composes, sweeps and makes folders, so that a sweep has the same job on all ranks and one folder,
whatever its sweeper draws.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import distributed

from mmft.config.compose import Composed, recompose
from mmft.errors import ExitCode, MmftError


def announce(composed: Composed, folder: Path) -> None:
    """Tells the other ranks what is trained next."""
    values = composed.resolved_for_disk()
    job = {"values": values, "typed": composed.typed, "choices": composed.choices, "folder": str(folder.absolute())}
    _exchange(job)


def lead(command: Callable[[], int]) -> int:
    """Runs the leader's command, and afterwards, however it ended, lets the other ranks go."""
    code: int = ExitCode.DEFECT
    try:
        code = command()
    except MmftError as error:
        code = error.exit_code
        raise
    finally:
        _exchange({"end": int(code)})
    return code


def follow() -> int:
    """Does the leader's jobs until there are no more; gives the leader's exit code."""
    from mmft.train import train

    while "end" not in (job := _exchange({})):
        try:
            train(recompose("train", job["values"], job["typed"], job["choices"]), Path(job["folder"]))
        except MmftError as error:
            if error.exit_code >= ExitCode.INTERRUPTED:
                raise
            # the leader says what went wrong, and whether there is another job
    return int(job["end"])


def _exchange(job: dict[str, Any]) -> dict[str, Any]:
    """The leader's `job`, on every rank. Training makes a process group of its own, for its own device."""
    distributed.init_process_group("gloo")
    try:
        box = [job]
        distributed.broadcast_object_list(box, src=0)
        distributed.barrier()
        return box[0]
    finally:
        distributed.destroy_process_group()
