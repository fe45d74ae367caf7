"""Progress on stderr: a Rich bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar

from mmft.training.module import FineTuning

log = logging.getLogger(__name__)
_EVERY_SECONDS = 10.0


class PlainProgress(pl.Callback):
    """A line after every epoch, and every ten seconds inside one."""

    def __init__(self) -> None:
        self._said = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the ten seconds anew."""
        self._said = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A line, if ten seconds have passed."""
        if time.monotonic() - self._said >= _EVERY_SECONDS:
            self._said = time.monotonic()
            log.info("epoch %d  step %d/%s", trainer.current_epoch + 1, batch_idx + 1, trainer.num_training_batches)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A line with the validation metrics."""
        assert isinstance(pl_module, FineTuning)
        shown = {k: v for k, v in pl_module.results.get("val", {}).items() if k in ("loss", pl_module.task.monitor)}
        said = "  ".join(f"val/{name} {value:.4f}" for name, value in shown.items())
        log.info("epoch %d done  step %d  %s", trainer.current_epoch + 1, trainer.global_step, said)


def progress(kind: str) -> list[pl.Callback]:
    """The callbacks for `auto`, `rich`, `plain` or `none`."""
    if kind == "auto":
        kind = "rich" if sys.stderr.isatty() else "plain"
    if kind == "rich":
        return [RichProgressBar(console_kwargs={"stderr": True}), PlainProgress()]
    return [PlainProgress()] if kind == "plain" else []
