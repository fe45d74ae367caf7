"""How Lightning runs several ranks, which are there already: `mmft.launch.supervisor` or torchrun started them.

Each keeps the whole model (`SummedGradients`) or a part of it (`ShardedModel`). Checkpoints of both are those of one
process, so that a run can be gone on with under another number of ranks, or the other way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, distributed
from torch.optim import Optimizer

from mmft.ranks import HEARTBEAT_FD
from mmft.training.module import FineTuning
from mmft.training.rendezvous import join
from mmft.training.sharding import full, like, load_shards


class SummedGradients(DDPStrategy):
    """DDP without the wrapper: `collectives.sum_gradients` is called by the step, once, after its micro-batches.

    Args:
        timeout: seconds after which a collective that a rank does not join is an error. A supervisor, who can say
            which rank it is, speaks first.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(cluster_environment=LightningEnvironment(), timeout=_after_the_supervisor(timeout))

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


class ShardedModel(ModelParallelStrategy):
    """Fully sharded data parallelism: `FineTuning.configure_model` shards, and the backward pass adds up gradients.

    Lightning's own keeps a checkpoint as shards with pickled metadata; here whole tensors are gathered one by one,
    and the first rank writes our folder.

    Args:
        ranks: how many there are.
        timeout: see `SummedGradients`.
    """

    def __init__(self, ranks: int, timeout: float) -> None:
        super().__init__(ranks, 1, timeout=_after_the_supervisor(timeout))
        self.cluster_environment = LightningEnvironment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands us the optimizer's state."""
        return True

    def _setup_distributed(self) -> None:
        self.set_world_ranks()
        join(self._get_process_group_backend(), self._timeout or timedelta(hours=1))
        super()._setup_distributed()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds, whole, on the first rank; names alone on the others."""
        module = self.lightning_module
        assert isinstance(module, FineTuning)
        names = module.saved_names()
        return {name: self._gathered(value) for name, value in module.state_dict().items() if name in names}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Takes this rank's parts of a checkpoint's tensors."""
        assert self.lightning_module is not None
        load_shards(self.lightning_module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As one process's optimizer would say it, on the first rank."""
        plain: Any = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        said: dict[str, Any] = plain.state_dict()
        state = {i: {k: self._gathered(v) for k, v in values.items()} for i, values in said["state"].items()}
        return said | {"state": state}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes this rank's parts of what `optimizer_state` gave, here or in another strategy."""
        for optimizer, said in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            own = optimizer.param_groups
            parameters = [p for group in own for p in group["params"]]
            state = {i: _sharded(values, parameters[i]) for i, values in said["state"].items()}
            # An implementation is not a state; not every one takes shards.
            groups = [g | {"fused": o["fused"]} for g, o in zip(said["param_groups"], own, strict=True)]
            optimizer.load_state_dict({"state": state, "param_groups": groups})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Writes our folder, on the first rank."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads our folder, on every rank."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def _gathered(self, value: Any) -> Any:
        """A whole tensor on the first rank's CPU; other ranks help and keep nothing."""
        whole = full(value)
        if isinstance(whole, Tensor):
            return whole.cpu() if self.is_global_zero else whole.new_empty(0)
        return whole


def _sharded(values: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """The state of one parameter; what has its shape is sharded as it is."""
    return {
        name: like(value, parameter) if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for name, value in values.items()
    }


def _after_the_supervisor(timeout: float) -> timedelta:
    return timedelta(seconds=2 * timeout + 60 if HEARTBEAT_FD in os.environ else timeout)
