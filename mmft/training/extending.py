"""A resumed run that is asked for more epochs or steps than it was started with: what changes, and the record of it."""

from __future__ import annotations

import logging

from mmft.data.order import StepPlan
from mmft.run_folder import RunFolder
from mmft.training.callbacks.training_on import TrainingOn
from mmft.training.schedules import Schedule

log = logging.getLogger(__name__)


def train_on(folder: RunFolder, step: int | None, plan: StepPlan, schedule: Schedule, name: str) -> list[TrainingOn]:
    """Compares a run's optimizer steps with those it was planned for; reports and records a longer plan.

    Args:
        folder: the run's; its summary has `planned_steps`, and gets `extended`, one entry for each time.
        step: optimizer steps done; None for a new run.
        plan: of all steps, now.
        schedule: of learning rates.
        name: of the schedule's option.

    Returns:
        The callback that a longer run needs, or none.
    """
    summary = folder.read_summary()
    before = summary.get("planned_steps", summary.get("optimizer_steps"))
    parts = summary.get("extended", [])
    folder.update_summary(planned_steps=plan.total)
    if step is None or before is None:
        return []
    if before == plan.total:
        if step == plan.total and "model_step" in summary:
            log.warning("all %d steps that trainer.max_epochs and trainer.max_steps allow are done", step)
        # killed before its first checkpoint after the end of the part before
        return [TrainingOn(plan)] if parts and parts[-1]["step"] == step else []
    log.info(
        "training on after optimizer step %d: %d steps in all instead of %d. schedule=%s now spans all of them, so the "
        "factor of the learning rates goes from %.3g to %.3g",
        *(step, plan.total, before, name, schedule.factor(step - 1, before), schedule.factor(step, plan.total)),
    )
    folder.update_summary(extended=[*parts, {"step": step, "from": before, "to": plan.total}])
    return [TrainingOn(plan)]
