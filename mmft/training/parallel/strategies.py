"""Lightning strategies for ranks that `mmft.launch.supervisor` or torchrun has started already.

Each rank holds the whole model (`SummedGradients`) or a shard (`ShardedModel`). Checkpoints of both are those of one
process, so a run can resume with another number of ranks or the other strategy.
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
from mmft.training.parallel.rendezvous import join
from mmft.training.parallel.sharding import full, like, load_shards


class SummedGradients(DDPStrategy):
    """DDP without the wrapper: the step calls `collectives.sum_gradients` once, after its micro-batches.

    Args:
        timeout: seconds after which a collective that a rank does not join is an error. The supervisor, which can name
            the rank, reports it earlier.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(cluster_environment=LightningEnvironment(), timeout=_after_the_supervisor(timeout))

    def setup_distributed(self) -> None:
        """Joins the process group, which Lightning then finds initialised."""
        self.set_world_ranks()
        join(self._get_process_group_backend(), self._timeout or timedelta(hours=1))
        super().setup_distributed()

    def configure_ddp(self) -> None:
        """Broadcasts the first rank's weights; nothing is wrapped."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            distributed.broadcast(tensor, src=0)


class ShardedModel(ModelParallelStrategy):
    """Fully sharded data parallelism: `FineTuning.configure_model` shards, and the backward pass sums gradients.

    Lightning's own saves shards with pickled metadata; here full tensors are gathered one by one, and the first rank
    writes our folder.

    Args:
        ranks: number of ranks.
        timeout: see `SummedGradients`.
    """

    def __init__(self, ranks: int, timeout: float) -> None:
        super().__init__(ranks, 1, timeout=_after_the_supervisor(timeout))
        self.cluster_environment = LightningEnvironment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning passes the optimizer's state to this strategy."""
        return True

    def _setup_distributed(self) -> None:
        self.set_world_ranks()
        join(self._get_process_group_backend(), self._timeout or timedelta(hours=1))
        super()._setup_distributed()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The full state dict of a checkpoint on the first rank; names only on the others."""
        module = self.lightning_module
        assert isinstance(module, FineTuning)
        names = module.saved_names
        return {name: self._gathered(value) for name, value in module.state_dict().items() if name in names}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Loads this rank's shards of a checkpoint's tensors."""
        assert self.lightning_module is not None
        load_shards(self.lightning_module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state that a single-process optimizer would have, on the first rank."""
        plain: Any = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        said: dict[str, Any] = plain.state_dict()
        state = {i: {k: self._gathered(v) for k, v in values.items()} for i, values in said["state"].items()}
        return said | {"state": state}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Loads this rank's shards of an `optimizer_state`, from this or another strategy."""
        for optimizer, said in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            own = optimizer.param_groups
            parameters = [p for group in own for p in group["params"]]
            state = {i: _sharded(values, parameters[i]) for i, values in said["state"].items()}
            # `fused` selects an implementation, so it is no state; not every one supports shards.
            groups = [g | {"fused": o["fused"]} for g, o in zip(said["param_groups"], own, strict=True)]
            optimizer.load_state_dict({"state": state, "param_groups": groups})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Writes our checkpoint folder, on the first rank."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads our checkpoint folder, on every rank."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def _gathered(self, value: Any) -> Any:
        """The full tensor on the first rank's CPU; other ranks only take part in gathering."""
        whole = full(value)
        if isinstance(whole, Tensor):
            return whole.cpu() if self.is_global_zero else whole.new_empty(0)
        return whole


def _sharded(values: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """State of one parameter; tensors of its shape are sharded as it is."""
    return {
        name: like(value, parameter) if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for name, value in values.items()
    }


def _after_the_supervisor(timeout: float) -> timedelta:
    return timedelta(seconds=2 * timeout + 60 if HEARTBEAT_FD in os.environ else timeout)
