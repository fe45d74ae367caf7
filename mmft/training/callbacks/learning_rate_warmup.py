"""`LearningRateWarmup`: the only callback that sets learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from mmft.training.schedules import Schedule


class LearningRateWarmup(pl.Callback):
    """Sets each group's rate before every optimizer step: its `base_lr` times the schedule's factor.

    Warm-up and schedule count optimizer steps (Lightning #1476) and hold no state. A group that starts later has a rate
    of 0 until then, and may have its own warm-up.

    Args:
        schedule: warm-up and the schedule after it.
        total_steps: optimizer steps of the whole run.
        joins: first optimizer step and own warm-up steps, by name, of groups that start later.
    """

    def __init__(
        self, schedule: Schedule, total_steps: int, joins: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        schedule.warmup_steps(total_steps)  # raises now, not at step 0, if the warm-up is too long
        self.schedule = schedule
        self.total_steps = total_steps
        self.joins = dict(joins or {})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets the rates of the next step."""
        step = trainer.global_step
        factor = self.schedule.factor(step, self.total_steps)
        for group in trainer.optimizers[0].param_groups:
            first, warmup = self.joins.get(group["name"], (0, 0))
            own = min(1.0, (step - first + 1) / warmup) if warmup else 1.0
            group["lr"] = group["base_lr"] * factor * own if step >= first else 0.0
