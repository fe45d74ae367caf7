"""`EarlyStopping`: ends training when a validation metric no longer gets better."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch import callbacks

from mmft.training.module import FineTuning


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, but for a metric that is nan: it says nothing of whether training helps, and uses up no patience.

    The name is Lightning's too: under it checkpoints keep how much patience is left.

    Args:
        metric: the validation metric.
        minimised: True where a lower value is better.
        patience: validations without improvement after which training stops.
        min_delta: what counts as an improvement.
    """

    def __init__(self, metric: str, minimised: bool, patience: int, min_delta: float) -> None:
        super().__init__(
            f"val/{metric}",
            min_delta,
            patience,
            mode="min" if minimised else "max",
            check_finite=False,
            check_on_train_epoch_end=False,  # after validation, so that the checkpoint of the epoch knows of it
        )
        self.metric = metric

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares the validation with the best one, where it can be compared."""
        assert isinstance(pl_module, FineTuning)
        value = pl_module.results["val"][self.metric]
        if value == value:
            super().on_validation_end(trainer, pl_module)
