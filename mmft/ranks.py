"""Which of several processes this one is, as torchrun and `mmft.launch.supervisor` say it. Imports nothing heavy.

A rank is one process with one device. What is written, printed or logged is the first rank's business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

HEARTBEAT_FD = "MMFT_HEARTBEAT_FD"
"""Environment variable: the file descriptor that the supervisor hears this rank's heart on."""


class Ranks(NamedTuple):
    """This process among all."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """How many machines there are."""
        return self.world // self.local_world


def started() -> Ranks:
    """What the environment says: `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, or SLURM's words for them.

    SLURM's are taken only inside `srun` with more than one task; torchrun's names are then set as well, so that
    whatever comes later finds one spelling.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        _adopt_slurm()
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Ranks()
    world = int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    return Ranks(int(os.environ["RANK"]), world, local, int(os.environ.get("LOCAL_WORLD_SIZE", world)))


@contextmanager
def environment_kept() -> Iterator[None]:
    """The environment is afterwards as before: Lightning takes WORLD_SIZE away, which a sweep's next run needs."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _adopt_slurm() -> None:
    """Puts SLURM's numbers under torchrun's names; an interactive shell's (`SLURM_STEP_ID` unset) are left alone."""
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
    """The first name of SLURM's list of nodes: `gpu[003-005,9],x` -> `gpu003`."""
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return nodes.partition(",")[0]
    return head + rest.partition("]")[0].partition(",")[0].partition("-")[0]


def beat(state: str) -> None:
    """Tells the supervisor, if there is one, what this rank does: `run`, `wait` (for the other ranks) or `idle`.

    Between `run` and the next word a rank is expected to come on; `idle` is outside training, and is not timed.
    """
    number = os.environ.get(HEARTBEAT_FD)
    if number is not None:
        try:
            os.write(int(number), state[:1].encode())
        except OSError:  # the supervisor is gone, and will not be asked again
            del os.environ[HEARTBEAT_FD]
