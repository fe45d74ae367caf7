"""A resumed run that is asked for more epochs or steps than it was started with: what changes, and the record of it."""

from __future__ import annotations

import logging

import lightning.pytorch as pl

from mmft.data.order import StepPlan
from mmft.run_folder import RunFolder
from mmft.training.callbacks.training_on import TrainingOn
from mmft.training.resuming import ResumePoint
from mmft.training.schedules import Schedule

log = logging.getLogger(__name__)


def train_on(folder: RunFolder, start: ResumePoint, plan: StepPlan, schedule: Schedule, name: str) -> list[pl.Callback]:
    """Compares a run's optimizer steps with those that its checkpoint was planned for; reports and records more.

    Args:
        folder: the run's; its summary gets `extended`, one entry for each part after the first.
        start: where it resumes.
        plan: of all steps, now.
        schedule: of learning rates.
        name: of the schedule's option.

    Returns:
        The callback that a longer run needs, or none.
    """
    step, before = start.step, start.planned
    if step is None or before is None:
        return []
    summary = folder.read_summary()
    if before == plan.total:
        if step == plan.total and "model_step" in summary:
            log.warning("all %d steps that trainer.max_epochs and trainer.max_steps allow are done", step)
        return []
    log.info(
        "training on after optimizer step %d: %d steps in all instead of %d. schedule=%s now spans all of them, so the "
        "factor of the learning rates goes from %.3g to %.3g",
        *(step, plan.total, before, name, schedule.factor(step - 1, before), schedule.factor(step, plan.total)),
    )
    part = {"step": step, "from": before, "to": plan.total}
    folder.update_summary(extended=[*(one for one in summary.get("extended", []) if one != part), part])
    return [TrainingOn(plan)]
