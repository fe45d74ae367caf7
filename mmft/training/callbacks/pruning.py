"""`Pruning`: reports validations to a search, and ends the run on all ranks if the search prunes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from mmft.data.order import StepPlan
from mmft.errors import ExitCode, MmftError, UserError
from mmft.training.callbacks.checkpointing import ends_epoch
from mmft.training.module import FineTuning
from mmft.training.parallel.collectives import gathered
from mmft.training.trial import Trial, is_trial


class Pruned(MmftError):
    """A search has pruned the run because it is not promising; not a failure.

    Args:
        monitor: the validation metric.
        value: its value.
        step: optimizer steps done.
        epochs: epochs done.
    """

    exit_code = ExitCode.DONE

    def __init__(self, monitor: str, value: float, step: int, epochs: int) -> None:
        super().__init__(f"Pruned in epoch {epochs} (optimizer step {step}) with val/{monitor} {value:.4f}.")
        self.summary = {"monitor": f"val/{monitor}", "pruned_step": step, "pruned_epoch": epochs}


class Pruning(pl.Callback):
    """Reports one trial. Must follow `Checkpointing`, so that a pruned run is saved.

    Args:
        folder: the run's.
        monitor: the validation metric that trials are compared by.
        speaks: whether this rank reports to the study.
        by_steps: whether validations are counted by optimizer steps, not by epochs.
    """

    def __init__(self, folder: Path, monitor: str, speaks: bool, by_steps: bool = False) -> None:
        self.folder = folder
        self.monitor = monitor
        self.speaks = speaks
        self.by_steps = by_steps
        self._trial: Trial | None = None
        self._prune = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the study."""
        plan: StepPlan = trainer.datamodule.plan  # type: ignore[attr-defined]
        self._trial = Trial(self.folder, plan.steps_in(0) if self.by_steps else 1) if self.speaks else None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports the validation; a run that ends here anyway is not pruned."""
        assert isinstance(pl_module, FineTuning)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        at = trainer.global_step if self.by_steps else trainer.current_epoch + 1
        value = pl_module.results["val"][self.monitor]
        prune = self._trial is not None and self._trial.report(value, at)
        ends = trainer.should_stop or trainer.global_step == trainer.datamodule.plan.total  # type: ignore[attr-defined]
        self._prune = any(gathered(prune)) and not ends
        if not ends_epoch(trainer):  # saved already
            self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends a pruned run after its save."""
        assert isinstance(pl_module, FineTuning)
        if self._prune:
            value = pl_module.results["val"][self.monitor]
            raise Pruned(self.monitor, value, trainer.global_step, trainer.current_epoch + 1)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Closes the study."""
        if self._trial is not None:
            self._trial.close()
        self._trial = None


def pruning(folder: Path, monitor: str, has_val: bool, speaks: bool, by_steps: bool) -> list[Any]:
    """The callback if the run is a trial, else none.

    Raises:
        UserError: there is nothing to compare trials by.
    """
    if not is_trial(folder):
        return []
    if not has_val:
        raise UserError(
            "hydra/sweeper=optuna: trials are compared on validation rows, but there are none. Set "
            "data.fractions.val, data.val or a data.columns.split with rows of val."
        )
    return [Pruning(folder, monitor, speaks, by_steps)]
