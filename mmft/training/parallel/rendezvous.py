"""Where ranks meet: one store per process, and a new process group for each job.

torch's own `env://` leaves the socket addresses of a group in the store, so a second group of the same processes
(another job of a sweep) would connect to those of the first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from torch import distributed
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from mmft.errors import ExitCode, MmftError, TrainingError, UserError
from mmft.ranks import started

_groups = 0
_asked = 0


@cache
def store() -> Store:
    """The store at `MASTER_ADDR:MASTER_PORT`: torchrun's, or one opened by the first rank."""
    ranks = started()
    torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    server = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        ranks.world,
        is_master=ranks.is_first and not torchrun,
        timeout=timedelta(days=30),  # the leader may be busy for long
    )
    return PrefixStore(f"mmft/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", server)


def join(backend: str, timeout: timedelta) -> None:
    """Creates this process's next group, unless it is in one; all ranks create the same groups in the same order."""
    global _groups
    if distributed.is_initialized():  # Lightning calls this again for the test after a fit
        return
    _groups += 1
    ranks = started()
    own = PrefixStore(f"group{_groups}", store())
    distributed.init_process_group(backend, store=own, rank=ranks.rank, world_size=ranks.world, timeout=timeout)


def of_first_rank(make: Callable[[], Any]) -> Any:
    """What `make` returns on the first rank, on every rank, as JSON has it; no process group is needed.

    All ranks call this in the same order.

    Raises:
        MmftError: on every rank, if `make` raises it on the first.
    """
    global _asked
    ranks = started()
    if ranks.world == 1:
        return make()
    _asked += 1
    if not ranks.is_first:
        said = json.loads(store().get(f"of_first_rank{_asked}"))
        if "error" in said:
            raise (UserError if said["code"] == ExitCode.USER else TrainingError)(said["error"])
        return said["made"]
    try:
        made = make()
    except MmftError as error:
        store().set(f"of_first_rank{_asked}", json.dumps({"error": str(error), "code": error.exit_code}))
        raise
    store().set(f"of_first_rank{_asked}", json.dumps({"made": made}))
    return made
