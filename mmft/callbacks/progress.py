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
        self._validated = False  # in this epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the ten seconds anew."""
        self._said = time.monotonic()
        self._validated = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A line, if ten seconds have passed."""
        if time.monotonic() - self._said >= _EVERY_SECONDS:
            self._said = time.monotonic()
            log.info("epoch %d  step %d/%s", trainer.current_epoch + 1, batch_idx + 1, trainer.num_training_batches)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes that there are new metrics."""
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A line, with the validation metrics if this epoch was validated."""
        assert isinstance(pl_module, FineTuning)
        results = pl_module.results["val"] if self._validated else {}
        said = [f"val/{k} {v:.4f}" for k, v in results.items() if k in ("loss", pl_module.task.monitor)]
        log.info("%s", "  ".join([f"epoch {trainer.current_epoch + 1} done", f"step {trainer.global_step}", *said]))


def progress(kind: str) -> list[pl.Callback]:
    """The callbacks for `auto`, `rich`, `plain` or `none`."""
    if kind == "auto":
        kind = "rich" if sys.stderr.isatty() else "plain"
    if kind == "rich":
        return [RichProgressBar(console_kwargs={"stderr": True}), PlainProgress()]
    return [PlainProgress()] if kind == "plain" else []
