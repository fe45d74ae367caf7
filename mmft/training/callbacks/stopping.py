"""`StopOnSignal`: on Ctrl-C or SIGTERM, saves at the next optimizer step on all ranks and ends the run."""

from __future__ import annotations

import signal
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from mmft.ranks import beat
from mmft.signals import Stopped, StopRequest
from mmft.training.callbacks.checkpointing import Checkpointing, ends_epoch
from mmft.training.module import FineTuning
from mmft.training.parallel.agreement import Wish
from mmft.training.parallel.collectives import gathered

_WISHES: dict[int, Wish] = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminate"}


class StopOnSignal(pl.Callback):
    """Checks after every optimizer step whether any rank received a signal.

    Args:
        checkpointing: saves the state.
        request: where this rank's signal is recorded.
    """

    def __init__(self, checkpointing: Checkpointing, request: StopRequest) -> None:
        self.checkpointing = checkpointing
        self.request = request

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From now on a signal waits for the current step."""
        self.request.check()  # a library may have swallowed the signal
        self.request.waits = True
        self.request.own()
        beat("run")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Saves and stops, unless the epoch ends or a validation follows: it and its save then come first."""
        assert isinstance(pl_module, FineTuning)
        beat("run")
        if self.request.number is not None:
            pl_module.agreement.wish(_WISHES[self.request.number])
        if trainer.is_last_batch or self.checkpointing.validates(trainer):
            return
        for number, wish in _WISHES.items():
            if pl_module.agreement.take(wish):
                self.checkpointing.save_last(trainer)
                self._stop(trainer, number)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops after the save of a validation inside an epoch."""
        if trainer.state.fn == TrainerFn.FITTING and not ends_epoch(trainer):
            self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops after the epoch's own save."""
        if numbers := [number for number in gathered(self.request.number) if number is not None]:
            self._stop(trainer, numbers[0])

    def _stop(self, trainer: pl.Trainer, number: int) -> None:
        raise Stopped(number, f" after optimizer step {trainer.global_step}, which is saved")

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Sends a heartbeat."""
        beat("run")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From now on a signal ends the run at once; the last checkpoint is saved."""
        self.request.waits = False
        beat("idle")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """As `on_train_end`, if training ends with an error."""
        self.request.waits = False
        beat("idle")
