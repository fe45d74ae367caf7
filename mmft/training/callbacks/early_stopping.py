"""`EarlyStopping`: ends training when a validation metric stops improving."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch import callbacks

from mmft.training.module import FineTuning


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, except that a nan metric is ignored and uses up no patience.

    The name is Lightning's too, since checkpoints store the remaining patience under it.

    Args:
        metric: the validation metric.
        minimised: True if lower is better.
        patience: validations without improvement before training stops.
        min_delta: minimum change that counts as an improvement.
    """

    def __init__(self, metric: str, minimised: bool, patience: int, min_delta: float) -> None:
        super().__init__(
            f"val/{metric}",
            min_delta,
            patience,
            mode="min" if minimised else "max",
            check_finite=False,
            check_on_train_epoch_end=False,  # after validation, so the epoch's checkpoint records it
        )
        self.metric = metric

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares the validation with the best one, unless its metric is nan."""
        assert isinstance(pl_module, FineTuning)
        value = pl_module.results["val"][self.metric]
        if value == value:
            super().on_validation_end(trainer, pl_module)
