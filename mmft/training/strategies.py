"""How Lightning runs several ranks: it starts nothing and wraps nothing; the step adds up gradients itself."""

from __future__ import annotations

from datetime import timedelta

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed


class SummedGradients(DDPStrategy):
    """DDP without the wrapper: `collectives.sum_gradients` is called by the step, once, after its micro-batches.

    The ranks are there already: `mmft.supervisor` or torchrun started them.

    Args:
        timeout: seconds after which a collective that a rank does not join is an error.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(cluster_environment=LightningEnvironment(), timeout=timedelta(seconds=timeout))

    def configure_ddp(self) -> None:
        """All ranks start from the first one's weights; nothing is wrapped."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            distributed.broadcast(tensor, src=0)
