"""`LayerFreezing`: keeps layers frozen, and unfreezes them at the plan's steps."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from mmft.data.order import StepPlan
from mmft.errors import UserError
from mmft.training.module import FineTuning
from mmft.tuning.plan import TuningPlan


class LayerFreezing(pl.Callback):
    """Sets `requires_grad` and eval mode by the tuning plan.

    Every parameter that is ever trained is in a named optimizer group from step 0, so unfreezing only switches
    `requires_grad`. Unlike Lightning's BaseFinetuning it adds no group (which breaks DDP and schedules) and compares no
    parameter values (which loses zero biases). What is trained is a function of the optimizer step, so there is no
    state and all ranks agree.

    Args:
        starts: first optimizer step, by name, of each group that does not start at step 0.
    """

    def __init__(self, starts: dict[str, int]) -> None:
        self.starts = starts
        self._changes = {0, *starts.values()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freezes after a strategy has wrapped the model, and on resume."""
        self._activate(pl_module, trainer.global_step)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sets train mode, in which frozen layers stay in eval mode."""
        pl_module.train()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Unfreezes the groups that start with the next step."""
        if trainer.global_step in self._changes:
            self._activate(pl_module, trainer.global_step)

    def _activate(self, module: pl.LightningModule, step: int) -> None:
        assert isinstance(module, FineTuning)
        module.plan.activate(module.model, module.plan.active(step, self.starts))


def start_steps(plan: TuningPlan, steps: StepPlan) -> dict[str, int]:
    """First optimizer step, by name, of each group that does not start at step 0.

    Raises:
        UserError: training ends before a group starts.
    """
    found = {}
    for group in plan.groups:
        if group.start.at:
            by_step = group.start.unit == "step"
            found[group.name] = step = group.start.at if by_step else steps.steps_before(group.start.at)
            if step >= steps.total:
                raise UserError(
                    f"tune.{group.part}.schedule: layer {group.layers} joins at {group.start.unit} {group.start.at}, "
                    f"but training ends before that, after {steps.total} optimizer steps."
                )
    return found


def own_warmups(plan: TuningPlan, starts: dict[str, int]) -> dict[str, tuple[int, int]]:
    """First optimizer step and own warm-up steps of each group that starts later."""
    return {group.name: (starts[group.name], group.start.warmup) for group in plan.groups if group.name in starts}
