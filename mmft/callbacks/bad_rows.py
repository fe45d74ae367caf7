"""`BadRowReport`: writes down the rows that could not be read, and ends the run when they are too many."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from mmft.data.bad_rows import BadRows


class BadRowReport(pl.Callback):
    """Collects the bad rows of every batch.

    Args:
        bad_rows: where they are kept; its `check` raises UserError when there are too many.
    """

    def __init__(self, bad_rows: BadRows) -> None:
        self.bad_rows = bad_rows

    def _collect(self, batch: Any) -> None:
        if batch.bad:
            self.bad_rows.add(batch.bad)
            self.bad_rows.check()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Looks at a training batch."""
        self._collect(batch)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Looks at a validation batch."""
        self._collect(batch)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Looks at a test batch."""
        self._collect(batch)
