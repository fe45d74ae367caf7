"""`LearningRateWarmup`: the only writer of learning rates."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from mmft.training.schedules import Schedule


class LearningRateWarmup(pl.Callback):
    """Before every optimizer step, each group's rate is its `base_lr` times the schedule's factor.

    Warm-up and schedule count optimizer steps (Lightning #1476), and hold no state.

    Args:
        schedule: warm-up and what follows it.
        total_steps: optimizer steps of the whole run.
    """

    def __init__(self, schedule: Schedule, total_steps: int) -> None:
        schedule.warmup_steps(total_steps)  # a warm-up that does not fit is an error now, not at step 0
        self.schedule = schedule
        self.total_steps = total_steps

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Writes the rates of the step that follows."""
        factor = self.schedule.factor(trainer.global_step, self.total_steps)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = group["base_lr"] * factor
