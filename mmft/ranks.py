"""Which rank this process is, as set by torchrun, SLURM or `mmft.launch.supervisor`. Imports nothing heavy.

A rank is one process with one device. Only the first rank writes, prints and logs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

HEARTBEAT_FD = "MMFT_HEARTBEAT_FD"
"""Environment variable: the file descriptor on which this rank sends heartbeats to the supervisor."""


class Ranks(NamedTuple):
    """This process's rank, and the number of ranks on all machines and on this one."""

    rank: int = 0
    world: int = 1
    local_world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes, prints and logs."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return self.world // self.local_world


def started() -> Ranks:
    """Reads `RANK`, `WORLD_SIZE` and `LOCAL_WORLD_SIZE`, or SLURM's equivalents.

    SLURM's are used only inside `srun` with more than one task; torchrun's variables are then set from them, so that
    later code finds one spelling.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        _adopt_slurm()
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Ranks()
    world = int(os.environ["WORLD_SIZE"])
    return Ranks(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_WORLD_SIZE", world)))


@contextmanager
def environment_kept() -> Iterator[None]:
    """Restores the environment afterwards: Lightning removes WORLD_SIZE, which the next run of a sweep needs."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _adopt_slurm() -> None:
    """Sets torchrun's variables from SLURM's, except in an interactive shell (`SLURM_STEP_ID` unset)."""
    if "SLURM_STEP_ID" not in os.environ:
        return
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
    os.environ["LOCAL_WORLD_SIZE"] = str(int(os.environ["SLURM_NTASKS"]) // nodes)
    os.environ["NODE_RANK"] = os.environ.get("SLURM_NODEID", "0")
    os.environ.setdefault("MASTER_ADDR", first_host(os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")))
    job = "".join(c for c in os.environ.get("SLURM_JOB_ID", "0") if c.isdigit())[-4:]
    os.environ.setdefault("MASTER_PORT", str(15000 + int(job or 0)))


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: `gpu[003-005,9],x` -> `gpu003`."""
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return nodes.partition(",")[0]
    return head + rest.partition("]")[0].partition(",")[0].partition("-")[0]


def beat(state: str) -> None:
    """Reports this rank's state to the supervisor, if there is one: `run`, `wait` (for other ranks) or `idle`.

    In `run`, a rank that others wait for must report within `trainer.rank_timeout`; `idle` (no training) is not timed.
    """
    number = os.environ.get(HEARTBEAT_FD)
    if number is not None:
        try:
            os.write(int(number), state[:1].encode())
        except OSError:  # the supervisor is gone; stop reporting
            del os.environ[HEARTBEAT_FD]
