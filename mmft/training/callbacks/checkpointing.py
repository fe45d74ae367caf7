"""`Checkpointing`: saves the last and the best states, for resuming and for the finished model."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from mmft.files import damage, link_files, replace_folder
from mmft.tasks.metrics.names import rank
from mmft.training.csv_log import CsvLog
from mmft.training.module import FineTuning

log = logging.getLogger(__name__)


class Checkpointing(pl.Callback):
    """Saves `last` after every epoch and validation (and optionally in between), and `best` by a validation metric.

    A step that is validated is saved after its validation, so that a resumed run finds it done.

    With `keep` above 1 the `keep` best are also kept as `step_N`, N being optimizer steps done.

    Args:
        folder: the run's `checkpoints` folder.
        every_steps: also save every so many optimizer steps; None for epochs only.
        every_minutes: also save when so many minutes have passed since the last save; None to ignore time.
        monitor: name of the validation metric.
        minimised: True if lower is better.
        metrics_file: its length is saved, so that a resumed run can truncate it.
        keep: number of best checkpoints to keep.
        val_every_steps: optimizer steps between validations; None for validations after epochs only.

    Attributes:
        best_value: the best value so far; None before the first validation.
        best_step: optimizer steps done at the best value; ties keep the earlier, but see `rank`.
        best_metrics: all validation metrics at that step.
        undefined: number of validations where the metric was nan.
        kept: `step` and `metrics` of the `keep` best validations, best first; ties keep the earlier first.
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
        val_every_steps: int | None = None,
    ) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self._saved = time.monotonic()
        self.monitor = monitor
        self.minimised = minimised
        self.metrics_file = metrics_file
        self.keep = keep
        self.val_every_steps = val_every_steps
        self.kept: list[dict[str, Any]] = []
        self.best_value: float | None = None
        self.best_step: int | None = None
        self.best_metrics: dict[str, float] = {}
        self.undefined = 0
        self._warned = False
        self.stopped_early = False
        self.planned_steps = 0

    @property
    def last(self) -> Path:
        """Folder of the last checkpoint."""
        return self.folder / "last"

    @property
    def best(self) -> Path:
        """Folder of the best checkpoint."""
        if self.keep == 1 or self.best_step is None:
            return self.folder / "best"
        return step_folder(self.folder, self.best_step)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the number of optimizer steps that a checkpoint is saved on the way to."""
        self.planned_steps = trainer.datamodule.plan.total  # type: ignore[attr-defined]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps a run that was stopped early stopped on resume, since Lightning does not record it."""
        trainer.should_stop = trainer.should_stop or self.stopped_early

    def save_last(self, trainer: pl.Trainer) -> None:
        """Saves the state after the current optimizer step."""
        trainer.save_checkpoint(self.last)
        self._saved = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Saves inside an epoch, unless a validation or the end of the epoch follows, which save."""
        assert isinstance(pl_module, FineTuning)
        agreement, minutes = pl_module.agreement, self.every_minutes
        due = self.every_steps is not None and trainer.global_step % self.every_steps == 0
        due = agreement.take("save") or due
        if not due and minutes is not None and time.monotonic() - self._saved > 60 * minutes:
            agreement.wish("save")
            due = agreement.take("save")  # at once, of a rank alone
        if due and not trainer.is_last_batch and not self.validates(trainer):
            self.save_last(trainer)

    def validates(self, trainer: pl.Trainer) -> bool:
        """Whether the current optimizer step is followed by a validation, wherever in an epoch it is."""
        return self.val_every_steps is not None and trainer.global_step % self.val_every_steps == 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares a validation of training with the best ones, and saves it if it is inside an epoch."""
        assert isinstance(pl_module, FineTuning)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._compare(trainer, pl_module)
        if not ends_epoch(trainer):
            self._save(trainer)

    def _compare(self, trainer: pl.Trainer, pl_module: FineTuning) -> None:
        value = pl_module.results["val"][self.monitor]
        if value != value:
            self._pass_over()
            return
        self.kept.append({"step": trainer.global_step, "metrics": pl_module.results["val"]})
        self.kept.sort(key=lambda one: self._rank(one["metrics"]))
        del self.kept[self.keep :]
        if self.best_step is None or self._rank(pl_module.results["val"]) < self._rank(self.best_metrics):
            self.best_value, self.best_step = value, trainer.global_step
            self.best_metrics = pl_module.results["val"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves after the epoch's validation."""
        self.stopped_early = trainer.should_stop
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        """Saves `last`, linked as `best` if this step is the best."""
        self.save_last(trainer)
        kept = [one["step"] for one in self.kept] if self.keep > 1 else []
        if trainer.global_step in {self.best_step, *kept}:
            if trainer.is_global_zero:
                settle_best(self.last, trainer.global_step, self.best_step, kept)
            trainer.strategy.barrier()  # before other ranks read it

    def warn_without_best(self) -> None:
        """Warns of a finished model that no value of the metric chose."""
        if self.best_step is None and self.undefined:
            log.warning(
                "val/%s was nan at every validation, so there is no best checkpoint: the finished model has the "
                "weights of the last optimizer step",
                self.monitor,
            )
        if self.best_value == 0 and not self.minimised:
            if self.best_metrics["loss"] != self.best_metrics["loss"]:
                log.warning(
                    "val/%s was 0 and val/loss nan at every validation: nothing tells them apart, and the finished "
                    "model is that of the first. Do the validation rows have labels that training rows have, too? "
                    "checkpoint.use=last takes the last",
                    self.monitor,
                )
                return
            log.warning(
                "val/%s was 0 at every validation, so that the lowest val/loss chose the best checkpoint. "
                "checkpoint.monitor=NAME chooses another metric",
                self.monitor,
            )

    def _pass_over(self) -> None:
        """Counts a validation whose metric is nan, and warns about the first."""
        self.undefined += 1
        if not self._warned:
            self._warned = True
            log.warning(
                "val/%s is nan: it is never the best, and early stopping ignores it. The validation rows may lack "
                "what it measures; checkpoint.monitor=NAME chooses another metric",
                self.monitor,
            )

    def _rank(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        return rank(metrics, self.monitor, self.minimised)

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and the length of metrics.csv."""
        best = {"best_value": self.best_value, "best_step": self.best_step, "best_metrics": self.best_metrics}
        kept = self.kept if self.keep > 1 else []
        rows = self.metrics_file.rows
        counted = {"undefined": self.undefined, "metrics_rows": rows, "stopped_early": self.stopped_early}
        return {**best, "kept": kept, **counted, "planned_steps": self.planned_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.best_value, self.best_step = state_dict["best_value"], state_dict["best_step"]
        self.best_metrics = state_dict["best_metrics"]
        self.kept = state_dict.get("kept", [])
        self._forget_damaged()
        self.undefined = state_dict.get("undefined", 0)
        self.stopped_early = state_dict["stopped_early"]

    def _forget_damaged(self) -> None:
        """Leaves out best checkpoints whose files were altered, so that the best of the others is found."""
        lost = [one for one in self.kept if damage(step_folder(self.folder, one["step"]))]
        self.kept = [one for one in self.kept if one not in lost]
        if self.best_step is None or not (wrong := damage(self.best)):
            return
        log.warning("%s: optimizer step %d is no longer the best checkpoint", wrong, self.best_step)
        best = self.kept[0] if self.kept else {"step": None, "metrics": {}}
        self.best_step, self.best_metrics = best["step"], best["metrics"]
        self.best_value = self.best_metrics.get(self.monitor)


def ends_epoch(trainer: pl.Trainer) -> bool:
    """Whether the epoch ends after the current step and its validation."""
    return bool(trainer.is_last_batch or trainer.should_stop)


def settle_best(checkpoint: Path, step: int, best: int | None, kept: Iterable[int]) -> None:
    """Makes the best checkpoints match the record in `checkpoint`, also after a kill in the middle of an update.

    Args:
        checkpoint: a run's `checkpoints/last`, or what takes its place. It is of `step`, and so are `best` and `step_N`
            of that step.
        step: optimizer steps done.
        best: steps of the best checkpoint.
        kept: steps of all checkpoints kept as `step_N`.
    """
    folder = checkpoint.parent
    wanted = {step_folder(folder, number).name: number for number in kept}
    names = {"best": best, **wanted}
    for name in [name for name, number in names.items() if number == step and name != checkpoint.name]:
        replace_folder(folder / name, link_files(checkpoint))
    for other in folder.glob("step_*"):
        if other.name not in (*wanted, checkpoint.name):
            shutil.rmtree(other)


def step_folder(folder: Path, step: int) -> Path:
    """Folder of one of the best checkpoints in a run's `checkpoints`."""
    return folder / f"step_{step}"


def resumed_best(checkpoint: Path, said: Mapping[str, Any], step: int) -> None:
    """`settle_best` by the state that this callback saved in the checkpoint of `step`."""
    settle_best(checkpoint, step, said["best_step"], [one["step"] for one in said.get("kept", [])])
