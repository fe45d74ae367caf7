"""`GradientAccumulation`: sets the size of micro-batches, and logs changes of the batch size."""

from __future__ import annotations

import logging

import lightning.pytorch as pl

from mmft.data.order import BatchSizes
from mmft.training.module import FineTuning

log = logging.getLogger(__name__)


class GradientAccumulation(pl.Callback):
    """Splits each logical batch into micro-batches, as computed by `training/accumulation.py`.

    Args:
        micro_batch_size: rows that a device computes at once; None for its whole share.
        batch_sizes: rows per optimizer step, by epoch; the data module uses it too.
        micro_batch_tokens: tokens that a device computes at once, instead of rows; None for any number.
    """

    def __init__(
        self, micro_batch_size: int | None, batch_sizes: BatchSizes, micro_batch_tokens: int | None = None
    ) -> None:
        self.micro_batch_size, self.micro_batch_tokens = micro_batch_size, micro_batch_tokens
        self.batch_sizes = batch_sizes

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Passes the size of micro-batches to the module."""
        assert isinstance(pl_module, FineTuning)
        pl_module.micro_batch_size = self.micro_batch_size
        pl_module.micro_batch_tokens = self.micro_batch_tokens

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs a change of the batch size."""
        epoch = trainer.current_epoch
        if epoch and self.batch_sizes.at(epoch) != self.batch_sizes.at(epoch - 1):
            log.info("epoch %d: %d rows per optimizer step from now on", epoch + 1, self.batch_sizes.at(epoch))
