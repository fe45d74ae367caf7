"""`Checkpointing`: the last and the best states of training, for resuming and for the finished model."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from mmft.files import link_files, replace_folder
from mmft.training.csv_log import CsvLog
from mmft.training.module import FineTuning

log = logging.getLogger(__name__)


class Checkpointing(pl.Callback):
    """Saves `last` after every epoch (and every so many steps), and `best` by a validation metric.

    With `keep` above 1 the best so many are there as `step_N` too, N optimizer steps done.

    Args:
        folder: the run's `checkpoints` folder.
        every_steps: also after every so many optimizer steps; None: only after epochs.
        every_minutes: also when so many minutes have passed since the last time; None: not by the clock.
        monitor: name of the validation metric.
        minimised: True where a lower value is better.
        metrics_file: its length is saved, so that a resumed run can cut it back.
        keep: how many of the best are kept.

    Attributes:
        best_value: the best value so far; None before the first validation.
        best_step: optimizer steps done when it was reached; ties keep the earlier.
        best_metrics: all validation metrics at that step.
        undefined: validations of which the metric was nan: there is nothing to compare.
        kept: `step` and `metrics` of the best so many validations, best first; ties keep the earlier in front.
        stopped_early: True once early stopping has ended training.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int | None,
        every_minutes: float | None,
        monitor: str,
        minimised: bool,
        metrics_file: CsvLog,
        keep: int = 1,
    ) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self._saved = time.monotonic()
        self.monitor = monitor
        self.minimised = minimised
        self.metrics_file = metrics_file
        self.keep = keep
        self.kept: list[dict[str, Any]] = []
        self.best_value: float | None = None
        self.best_step: int | None = None
        self.best_metrics: dict[str, float] = {}
        self.undefined = 0
        self._warned = False
        self.stopped_early = False

    @property
    def last(self) -> Path:
        """Folder of the last checkpoint."""
        return self.folder / "last"

    @property
    def best(self) -> Path:
        """Folder of the best checkpoint."""
        return self.folder / "best"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """On resume: a run that was stopped early stays stopped; Lightning keeps no trace of it."""
        trainer.should_stop = trainer.should_stop or self.stopped_early

    def save_last(self, trainer: pl.Trainer) -> None:
        """Saves the state after the optimizer step just done."""
        trainer.save_checkpoint(self.last)
        self._saved = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Saves inside an epoch; its last step is saved by `on_train_epoch_end`, after validation."""
        assert isinstance(pl_module, FineTuning)
        if self.every_minutes is not None and time.monotonic() - self._saved > 60 * self.every_minutes:
            pl_module.agreement.wish("save")
        due = self.every_steps is not None and trainer.global_step % self.every_steps == 0
        due = pl_module.agreement.take("save") or due
        if due and not trainer.is_last_batch:
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares the validation with the best ones, if it is one of training."""
        assert isinstance(pl_module, FineTuning)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        value = pl_module.results["val"][self.monitor]
        if value != value:
            self._pass_over()
            return
        self.kept.append({"step": trainer.global_step, "metrics": pl_module.results["val"]})
        self.kept.sort(key=lambda one: one["metrics"][self.monitor] * (1 if self.minimised else -1))
        del self.kept[self.keep :]
        if self._is_better(value):
            self.best_value, self.best_step = value, trainer.global_step
            self.best_metrics = pl_module.results["val"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves `last`, and the same files as `best` where this step is the best."""
        self.stopped_early = trainer.should_stop
        self.save_last(trainer)
        kept = [one["step"] for one in self.kept] if self.keep > 1 else []
        if trainer.global_step in {self.best_step, *kept}:
            if trainer.is_global_zero:
                settle_best(self.folder, trainer.global_step, self.best_step, kept)
            trainer.strategy.barrier()  # before a rank reads it

    def warn_without_best(self) -> None:
        """Says why the last step is the finished model, where there were validations and none could be compared."""
        if self.best_step is None and self.undefined:
            log.warning(
                "val/%s was nan at every validation, so that there is no best one: the finished model is that of the "
                "last optimizer step",
                self.monitor,
            )

    def _pass_over(self) -> None:
        """Counts a validation whose metric is nan, and warns of the first."""
        self.undefined += 1
        if not self._warned:
            self._warned = True
            log.warning(
                "val/%s is nan, which is never better and which early stopping does not count; the validation rows may "
                "lack what it is measured on. checkpoint.monitor=NAME chooses another metric",
                self.monitor,
            )

    def _is_better(self, value: float) -> bool:
        if self.best_value is None:
            return True
        return value < self.best_value if self.minimised else value > self.best_value

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and how long metrics.csv is."""
        best = {"best_value": self.best_value, "best_step": self.best_step, "best_metrics": self.best_metrics}
        kept = self.kept if self.keep > 1 else []
        rows = self.metrics_file.rows
        counted = {"undefined": self.undefined, "metrics_rows": rows, "stopped_early": self.stopped_early}
        return {**best, "kept": kept, **counted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self.best_value, self.best_step = state_dict["best_value"], state_dict["best_step"]
        self.best_metrics = state_dict["best_metrics"]
        self.kept = state_dict.get("kept", [])
        self.undefined = state_dict.get("undefined", 0)
        self.stopped_early = state_dict["stopped_early"]


def settle_best(folder: Path, step: int, best: int | None, kept: Iterable[int]) -> None:
    """Makes the best checkpoints those that the last one says there are; also what a kill in the middle of it has left.

    Args:
        folder: a run's `checkpoints`; `last` in it is of `step`, whose files are those of `best` and `step_N` too.
        step: optimizer steps done.
        best: those of the best.
        kept: those of all that are kept as `step_N`.
    """
    wanted = {step_folder(folder, number).name: number for number in kept}
    names = {"best": best, **wanted}
    for name in [name for name, number in names.items() if number == step]:
        replace_folder(folder / name, link_files(folder / "last"))
    for other in folder.glob("step_*"):
        if other.name not in wanted:
            shutil.rmtree(other)


def step_folder(folder: Path, step: int) -> Path:
    """Where in a run's `checkpoints` one of the best so many is."""
    return folder / f"step_{step}"


def resumed_best(folder: Path, said: Mapping[str, Any], step: int) -> None:
    """`settle_best` by what the checkpoint of `step` says of this callback."""
    settle_best(folder, step, said["best_step"], [one["step"] for one in said.get("kept", [])])
