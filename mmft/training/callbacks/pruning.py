"""`Pruning`: tells a search every validation, and ends the run where the search says so, on all ranks the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from mmft.errors import ExitCode, MmftError, UserError
from mmft.training.collectives import gathered
from mmft.training.module import FineTuning
from mmft.training.trial import Trial, is_trial


class Pruned(MmftError):
    """A search has ended the run: it does not promise to be among the best. No failure.

    Args:
        monitor: the validation metric.
        value: what it was.
        step: optimizer steps done.
        epochs: done.
    """

    exit_code = ExitCode.DONE

    def __init__(self, monitor: str, value: float, step: int, epochs: int) -> None:
        super().__init__(f"Pruned after epoch {epochs} (optimizer step {step}) with val/{monitor} {value:.4f}.")
        self.summary = {"monitor": f"val/{monitor}", "pruned_step": step, "pruned_epoch": epochs}


class Pruning(pl.Callback):
    """One trial's reports. Goes after `Checkpointing`, so that what is ended is saved.

    Args:
        folder: the run's.
        monitor: the validation metric that trials are compared by.
        speaks: whether this rank is the one that talks to the study.
    """

    def __init__(self, folder: Path, monitor: str, speaks: bool) -> None:
        self.folder = folder
        self.monitor = monitor
        self.speaks = speaks
        self._trial: Trial | None = None
        self._prune = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the study."""
        self._trial = Trial(self.folder) if self.speaks else None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports and asks; a run that ends here anyway is not pruned."""
        assert isinstance(pl_module, FineTuning)
        epochs = trainer.current_epoch + 1
        value = pl_module.results["val"][self.monitor]
        prune = self._trial is not None and self._trial.report(value, epochs)
        ends = trainer.should_stop or epochs == trainer.max_epochs
        self._prune = any(gathered(prune)) and not ends

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends the run, which is saved."""
        assert isinstance(pl_module, FineTuning)
        if self._prune:
            value = pl_module.results["val"][self.monitor]
            raise Pruned(self.monitor, value, trainer.global_step, trainer.current_epoch + 1)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lets go of the study."""
        if self._trial is not None:
            self._trial.close()
        self._trial = None


def pruning(folder: Path, monitor: str, has_val: bool, speaks: bool) -> list[Any]:
    """The callback of a run that is a trial; none for another.

    Raises:
        UserError: there is nothing to compare trials by.
    """
    if not is_trial(folder):
        return []
    if not has_val:
        raise UserError(
            "hydra/sweeper=optuna: trials are compared by their validation rows, and there are none. Set "
            "data.fractions.val, data.val or a data.columns.split with rows of val."
        )
    return [Pruning(folder, monitor, speaks)]
