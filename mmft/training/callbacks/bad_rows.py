"""`BadRowReport`: records unreadable rows, and ends the run if there are too many."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from mmft.batch import BadRow
from mmft.data.bad_rows import BadRows
from mmft.training.parallel.collectives import gathered, is_distributed


class BadRowReport(pl.Callback):
    """Collects bad rows from every batch, and gathers those of all ranks before saves and after evaluations.

    Args:
        bad_rows: where they are recorded; its `check` raises UserError if there are too many.
    """

    def __init__(self, bad_rows: BadRows) -> None:
        self.bad_rows = bad_rows
        self._own: list[BadRow] = []  # not shared with the other ranks yet

    def _collect(self, batch: Any) -> None:
        if batch.bad:
            self.bad_rows.add(batch.bad)
            self.bad_rows.check()
            if is_distributed():
                self._own += batch.bad

    def _tell(self) -> None:
        if is_distributed():
            self.bad_rows.add(row for rank in gathered(self._own) for row in rank)
            self._own = []
            self.bad_rows.check()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Gathers bad rows, since a resumed run does not read these rows again."""
        self._tell()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gathers the bad rows of all ranks."""
        self._tell()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gathers the bad rows of all ranks."""
        self._tell()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Collects the bad rows of a training batch."""
        self._collect(batch)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collects the bad rows of a validation batch."""
        self._collect(batch)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collects the bad rows of a test batch."""
        self._collect(batch)
