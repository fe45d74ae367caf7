"""`StopOnSignal`: Ctrl-C and SIGTERM save at the next optimizer step and end the run as stopped."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from mmft.callbacks.checkpointing import Checkpointing
from mmft.errors import ExitCode, MmftError

_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Stopped(MmftError):
    """The run was asked to stop, and has saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name} after optimizer step {step}, which is saved.")
        self.exit_code = _CODES[signal.Signals(number)]


class StopOnSignal(pl.Callback):
    """Waits for the step in progress; a second signal of the same kind ends the process at once.

    Args:
        checkpointing: saves the state.
    """

    def __init__(self, checkpointing: Checkpointing) -> None:
        self.checkpointing = checkpointing
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        signal.signal(number, self._previous[number])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes over both signals, from Lightning too, which would end with code 0."""
        for number in _CODES:
            self._previous[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Saves and stops, unless the epoch ends here: then its validation and its own save come first."""
        if self._received is not None and not trainer.is_last_batch:
            self.checkpointing.save_last(trainer)
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops after the epoch's own save."""
        if self._received is not None:
            self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        assert self._received is not None
        raise Stopped(self._received, trainer.global_step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
