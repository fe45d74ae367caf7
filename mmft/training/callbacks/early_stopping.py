"""`EarlyStopping`: ends training when a validation metric stops improving."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import callbacks

from mmft.tasks.metrics.names import rank
from mmft.training.module import FineTuning


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, except that a nan metric is ignored, and that a lower loss is an improvement while `rank` is by it.

    Neither uses up patience.

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
        self.metric, self.minimised = metric, minimised
        self.best_rank: tuple[float, float] | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares the validation with the best one, unless its metric is nan."""
        assert isinstance(pl_module, FineTuning)
        metrics = pl_module.results["val"]
        if metrics[self.metric] != metrics[self.metric]:
            return
        before, own = self.best_rank, rank(metrics, self.metric, self.minimised)
        self.best_rank = own if before is None else min(before, own)
        if before is not None and own[0] == before[0] and own < before:
            self.wait_count = 0
            return
        super().on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and the best rank."""
        return {**super().state_dict(), "best_rank": self.best_rank}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state_dict)
        found = state_dict.get("best_rank")
        self.best_rank = None if found is None else (found[0], found[1])
