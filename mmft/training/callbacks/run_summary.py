"""`RunSummary`: keeps summary.json up to date during training."""

from __future__ import annotations

import statistics
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from mmft import clock
from mmft.data.order import StepPlan
from mmft.run_folder import RunFolder
from mmft.training.memory import forget_peak, held_bytes, peak_bytes, release_unused
from mmft.training.module import FineTuning


class RunSummary(pl.Callback):
    """Writes steps, epochs, times, memory and validation metrics after every epoch and validation, and at the end.

    Args:
        folder: the run folder.
        job_started: when this job began, by `clock.since_start()`; a process may run several jobs.
    """

    def __init__(self, folder: RunFolder, job_started: clock.Spent) -> None:
        self.folder = folder
        self.job_started = job_started
        self.imports_before = clock.spent_importing() if job_started.wall else clock.Spent(0.0, 0.0)
        self._before: dict[str, Any] = {"train_seconds": 0.0, "fit_seconds": 0.0, "rows_seen": 0}
        self._fit_start: float | None = None
        self._rows = 0
        self._step_seconds: list[float] = []
        self._startup: dict[str, float] = {}
        self._held_before = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._fit_start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Counts the rows of all ranks, and records the time of the first optimizer step."""
        plan: StepPlan = trainer.datamodule.plan  # type: ignore[attr-defined]
        self._rows += plan.rows_at(trainer.global_step - 1)
        if not self._startup:
            startup = clock.since_start() - self.job_started
            imports = clock.spent_importing() - self.imports_before
            self._startup = {
                "startup_seconds": startup.wall,
                "import_seconds": imports.wall,
                "startup_cpu_seconds": startup.cpu,
                "import_cpu_seconds": imports.cpu,
            }

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the summary."""
        assert isinstance(pl_module, FineTuning)
        self.write(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the summary after a validation inside an epoch."""
        if isinstance(pl_module, FineTuning) and trainer.state.fn == TrainerFn.FITTING and not trainer.is_last_batch:
            self.write(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes the summary of a run that stops or fails inside an epoch."""
        if isinstance(pl_module, FineTuning) and self._startup:
            self.write(trainer, pl_module)

    def write(self, trainer: pl.Trainer, module: FineTuning) -> None:
        """Writes the current values."""
        state = self.state_dict()
        median = statistics.median(module.step_seconds) if module.step_seconds else None
        fit = state["fit_seconds"]
        self.folder.update_summary(
            optimizer_steps=trainer.global_step,
            epochs=trainer.current_epoch + 1,
            val=module.results.get("val", {}),
            train_seconds=state["train_seconds"],
            fit_seconds=fit,
            median_step_seconds=median,
            samples_per_second=state["rows_seen"] / fit if fit else None,
            memory_before_fit_bytes=self._held_before,
            peak_memory_bytes=peak_bytes(trainer.strategy.root_device),
            **self._startup,
        )

    def state_dict(self) -> dict[str, Any]:
        """Times and row count so far, including those before a resume."""
        elapsed = 0.0 if self._fit_start is None else time.perf_counter() - self._fit_start
        return {
            "train_seconds": self._before["train_seconds"] + elapsed,
            "fit_seconds": self._before["fit_seconds"] + sum(self._step_seconds),
            "rows_seen": self._before["rows_seen"] + self._rows,
        }

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes the module's step times, and records memory in use before the model is moved to its device."""
        if isinstance(pl_module, FineTuning):
            self._step_seconds = pl_module.step_seconds
        if stage == "fit":
            device = trainer.strategy.root_device
            release_unused()  # what loading has freed is not memory in use, and would hide as much of the fit's
            forget_peak(device)
            self._held_before = held_bytes(device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._before = state_dict
