"""`StopOnSignal`: Ctrl-C and SIGTERM save at the next optimizer step and end the run as stopped."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from mmft.callbacks.checkpointing import Checkpointing
from mmft.signals import Stopped, StopRequest


class StopOnSignal(pl.Callback):
    """Looks after every optimizer step whether a signal was received.

    Args:
        checkpointing: saves the state.
        request: where a signal is noted.
    """

    def __init__(self, checkpointing: Checkpointing, request: StopRequest) -> None:
        self.checkpointing = checkpointing
        self.request = request

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a signal waits for the step in progress."""
        self.request.waits = True
        self.request.own()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Saves and stops, unless the epoch ends here: then its validation and its own save come first."""
        if self.request.number is not None and not trainer.is_last_batch:
            self.checkpointing.save_last(trainer)
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops after the epoch's own save."""
        if self.request.number is not None:
            self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        assert self.request.number is not None
        raise Stopped(self.request.number, f" after optimizer step {trainer.global_step}, which is saved")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a signal ends the run at once; the last checkpoint is there."""
        self.request.waits = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The same when training ends otherwise."""
        self.request.waits = False
