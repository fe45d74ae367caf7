"""`TrainingOn`: lets a run whose training had ended go on, when `resume=RUN` asks for more epochs or steps."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from mmft.data.order import StepPlan


class TrainingOn(pl.Callback):
    """Changes the checkpoint of a run's end into one of the middle of the longer run.

    A run that stopped early is no longer stopped. If `max_steps` or early stopping cut its last epoch, Lightning takes
    that epoch as done, whereas in the longer run the rest of it follows.

    Args:
        plan: of the longer run.
    """

    def __init__(self, plan: StepPlan) -> None:
        self.plan = plan

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Called before the loops and the other callbacks take their states from `checkpoint`."""
        checkpoint["callbacks"]["Checkpointing"]["stopped_early"] = False
        _, steps = self.plan.locate(checkpoint["global_step"])
        loop = checkpoint["loops"]["fit_loop"]
        epochs = loop["epoch_progress"]
        if steps == 0 or epochs["current"]["processed"] < epochs["current"]["ready"]:
            return
        for counts in epochs.values():
            counts["processed"] -= 1
            counts["completed"] = counts["processed"]
        loop["epoch_loop.batch_progress"]["is_last_batch"] = False
