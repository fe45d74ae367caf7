"""`GradientAccumulation`: the micro-batch, and the batch size as a function of the epoch."""

from __future__ import annotations

import logging

import lightning.pytorch as pl

from mmft.data.order import BatchSizes
from mmft.training.module import FineTuning

log = logging.getLogger(__name__)


class GradientAccumulation(pl.Callback):
    """Splits each logical batch into micro-batches; the arithmetic is `training/accumulation.py`'s.

    Args:
        micro_batch_size: rows that a device computes at once; None: its whole share.
        batch_sizes: rows of one optimizer step by epoch; the data module draws its batches by it too.
    """

    def __init__(self, micro_batch_size: int | None, batch_sizes: BatchSizes) -> None:
        self.micro_batch_size = micro_batch_size
        self.batch_sizes = batch_sizes

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hands the micro-batch to the step."""
        assert isinstance(pl_module, FineTuning)
        pl_module.micro_batch_size = self.micro_batch_size

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says so when the batch size changes."""
        epoch = trainer.current_epoch
        if epoch and self.batch_sizes.at(epoch) != self.batch_sizes.at(epoch - 1):
            log.info("epoch %d: %d rows per optimizer step from here on", epoch + 1, self.batch_sizes.at(epoch))
