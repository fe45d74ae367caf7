"""Progress on stderr: a Rich bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from mmft.training.module import FineTuning

log = logging.getLogger(__name__)
_EVERY_SECONDS = 10.0


class Bar(RichProgressBar):
    """Lightning's bar, with epochs counted from 1 and the last validation's metrics."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The monitored metric and the loss of the last validation."""
        assert isinstance(pl_module, FineTuning)
        return {f"val/{name}": f"{value:.4f}" for name, value in _shown(pl_module).items()}

    def _get_train_description(self, current_epoch: int) -> str:
        last = str(super()._get_train_description(current_epoch)).rpartition("/")[2]  # number of epochs minus one
        return f"Epoch {current_epoch + 1}/{int(last) + 1}"


class PlainProgress(pl.Callback):
    """Logs a line after every epoch and validation, and every ten seconds within an epoch.

    Args:
        level: log level; DEBUG sends the lines to train.log only.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        self._level = level
        self._said = 0.0
        self._validated = False  # in this epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restarts the ten seconds."""
        self._said = time.monotonic()
        self._validated = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs a line if ten seconds have passed."""
        if time.monotonic() - self._said >= _EVERY_SECONDS:
            self._said = time.monotonic()
            steps = batch_idx + 1, trainer.num_training_batches
            log.log(self._level, "epoch %d  step %d/%s", trainer.current_epoch + 1, *steps)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs a line within an epoch; at its end, `on_train_epoch_end` has the new metrics."""
        assert isinstance(pl_module, FineTuning)
        self._validated = trainer.is_last_batch or trainer.should_stop
        if trainer.state.fn == TrainerFn.FITTING and not self._validated:
            line = [f"epoch {trainer.current_epoch + 1}", f"step {trainer.global_step}", *_told(pl_module)]
            log.log(self._level, "%s", "  ".join(line))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs a line, with the validation metrics if this epoch was validated."""
        assert isinstance(pl_module, FineTuning)
        said = _told(pl_module) if self._validated else []
        line = [f"epoch {trainer.current_epoch + 1} done", f"step {trainer.global_step}", *said]
        log.log(self._level, "%s", "  ".join(line))


def _told(module: FineTuning) -> list[str]:
    return [f"val/{name} {value:.4f}" for name, value in _shown(module).items()]


def _shown(module: FineTuning) -> dict[str, float]:
    return {k: v for k, v in module.results.get("val", {}).items() if k in ("loss", *module.task.headlines)}


def progress(kind: str) -> list[pl.Callback]:
    """The callbacks for `auto`, `rich`, `plain` or `none`."""
    if kind == "auto":
        kind = "rich" if sys.stderr.isatty() or Console().is_jupyter else "plain"
    if kind == "rich":
        return [Bar(console_kwargs={"stderr": True}), PlainProgress(logging.DEBUG)]
    return [PlainProgress()] if kind == "plain" else []
