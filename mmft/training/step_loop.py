"""`StepLoop`: Lightning's loop over the steps of an epoch, without what none of our steps needs.

Between two batches, Lightning calls five hooks of every callback, two of the strategy and four of the module, and
collects what was logged: as long as a step of a small head takes. Here only callbacks that have a hook are called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.progress import _Progress
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer import call
from torch import Tensor
from torch.optim import Optimizer

from mmft.training.module import FineTuning

_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
_BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")


class StepLoop(_TrainingEpochLoop):
    """Takes the place of a Trainer's `fit_loop.epoch_loop`; counts, saves and resumes as that does.

    With a callback from elsewhere (`callbacks.extra`) that has a hook within a step, steps are Lightning's own, in
    which such a hook may do whatever Lightning allows, `log` included.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self._plain = False
        self._started: Sequence[Callable[..., None]] = ()
        self._ended: Sequence[Callable[..., None]] = ()

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Finds out which callbacks have which hooks, at the beginning of an epoch."""
        super().on_run_start(data_fetcher)
        callbacks: list[Any] = self.trainer.callbacks
        others = [one for one in callbacks if not type(one).__module__.startswith("mmft.")]
        self._plain = not any(_has(one, hook) for one in others for hook in (*_HOOKS, *_BATCH_HOOKS))
        self._started, self._ended = (
            [partial(getattr(one, hook), self.trainer) for one in callbacks if _has(one, hook)] for hook in _BATCH_HOOKS
        )

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """One step."""
        if self.restarting or not self._plain:
            super().advance(data_fetcher)
            return
        trainer, progress = self.trainer, self.batch_progress
        module: Any = trainer.lightning_module
        assert isinstance(module, FineTuning)
        batch = next(data_fetcher)[0]
        index = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        batch = trainer.precision_plugin.convert_input(batch)
        if trainer.strategy.root_device.type != "cpu":
            batch = call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)
        progress.increment_ready()
        for hook in self._started:
            hook(module, batch, index)
        progress.increment_started()
        optimizer = _Counted(trainer.optimizers[0], self.manual_optimization.optim_step_progress)
        with trainer.precision_plugin.train_step_context():
            module.step(batch, optimizer, Tensor.backward)
        progress.increment_processed()
        for hook in self._ended:
            hook(module, {}, batch, index)
        progress.increment_completed()


class _Counted:
    """An optimizer whose steps are the Trainer's `global_step`."""

    def __init__(self, optimizer: Optimizer, progress: _Progress) -> None:
        self._optimizer, self._progress = optimizer, progress
        self.zero_grad, self.param_groups = optimizer.zero_grad, optimizer.param_groups

    def step(self) -> None:
        """Steps and counts."""
        self._progress.increment_ready()
        self._optimizer.step()
        self._progress.increment_completed()


def _has(callback: object, hook: str) -> bool:
    return getattr(type(callback), hook) is not getattr(pl.Callback, hook)
