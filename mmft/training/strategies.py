"""How Lightning runs several ranks: it starts nothing and wraps nothing; the step adds up gradients itself."""

from __future__ import annotations

import os
from datetime import timedelta

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed

from mmft.ranks import HEARTBEAT_FD
from mmft.training.rendezvous import join


class SummedGradients(DDPStrategy):
    """DDP without the wrapper: `collectives.sum_gradients` is called by the step, once, after its micro-batches.

    The ranks are there already: `mmft.processes.supervisor` or torchrun started them.

    Args:
        timeout: seconds after which a collective that a rank does not join is an error. A supervisor, who can say
            which rank it is, speaks first.
    """

    def __init__(self, timeout: float) -> None:
        timeout = 2 * timeout + 60 if HEARTBEAT_FD in os.environ else timeout
        super().__init__(cluster_environment=LightningEnvironment(), timeout=timedelta(seconds=timeout))

    def setup_distributed(self) -> None:
        """Joins the other ranks; what Lightning does then finds it done."""
        self.set_world_ranks()
        join(self._get_process_group_backend(), self._timeout or timedelta(hours=1))
        super().setup_distributed()

    def configure_ddp(self) -> None:
        """All ranks start from the first one's weights; nothing is wrapped."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            distributed.broadcast(tensor, src=0)
