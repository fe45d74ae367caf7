"""`LearningRateWarmup`: the only writer of learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from mmft.training.schedules import Schedule


class LearningRateWarmup(pl.Callback):
    """Before every optimizer step, each group's rate is its `base_lr` times the schedule's factor.

    Warm-up and schedule count optimizer steps (Lightning #1476), and hold no state. A group that joins later has a
    rate of 0 until then, and may have a warm-up of its own.

    Args:
        schedule: warm-up and what follows it.
        total_steps: optimizer steps of the whole run.
        joins: of groups that join later, by name: their first optimizer step, and the steps of their own warm-up.
    """

    def __init__(
        self, schedule: Schedule, total_steps: int, joins: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        schedule.warmup_steps(total_steps)  # a warm-up that does not fit is an error now, not at step 0
        self.schedule = schedule
        self.total_steps = total_steps
        self.joins = dict(joins or {})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Writes the rates of the step that follows."""
        step = trainer.global_step
        factor = self.schedule.factor(step, self.total_steps)
        for group in trainer.optimizers[0].param_groups:
            first, warmup = self.joins.get(group["name"], (0, 0))
            own = min(1.0, (step - first + 1) / warmup) if warmup else 1.0
            group["lr"] = group["base_lr"] * factor * own if step >= first else 0.0
