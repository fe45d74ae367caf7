"""Progress: a Rich bar on a terminal, a line with a bar in a notebook, plain lines on stderr otherwise."""

from __future__ import annotations

import logging
import sys
import time
from html import escape
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from mmft.training.module import FineTuning

log = logging.getLogger(__name__)
_EVERY_SECONDS, _OFTEN = 10.0, 0.5  # between plain lines, and between states of a bar


class Bar(RichProgressBar):
    """Lightning's bar, with epochs counted from 1 and the last validation's metrics."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The monitored metric and the loss of the last validation."""
        assert isinstance(pl_module, FineTuning)
        return {f"val/{name}": f"{value:.4f}" for name, value in _shown(pl_module).items()}

    def _get_train_description(self, current_epoch: int) -> str:
        last = str(super()._get_train_description(current_epoch)).rpartition("/")[2]  # number of epochs minus one
        return f"Epoch {current_epoch + 1}/{int(last) + 1}"


class PlainProgress(pl.Callback):
    """Logs a line after every epoch and validation, and every ten seconds within an epoch.

    Args:
        level: log level; DEBUG sends the lines to train.log only.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        self._level = level
        self._said = 0.0
        self._validated = False  # in this epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restarts the ten seconds."""
        self._said = time.monotonic()
        self._validated = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs a line if ten seconds have passed."""
        if time.monotonic() - self._said >= _EVERY_SECONDS:
            self._said = time.monotonic()
            steps = batch_idx + 1, trainer.num_training_batches
            log.log(self._level, "epoch %d  step %d/%s", trainer.current_epoch + 1, *steps)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs a line within an epoch; at its end, `on_train_epoch_end` has the new metrics."""
        assert isinstance(pl_module, FineTuning)
        self._validated = trainer.is_last_batch or trainer.should_stop
        if trainer.state.fn == TrainerFn.FITTING and not self._validated:
            line = [f"epoch {trainer.current_epoch + 1}", f"step {trainer.global_step}", *_told(pl_module)]
            log.log(self._level, "%s", "  ".join(line))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs a line, with the validation metrics if this epoch was validated."""
        assert isinstance(pl_module, FineTuning)
        said = _told(pl_module) if self._validated else []
        line = [f"epoch {trainer.current_epoch + 1} done", f"step {trainer.global_step}", *said]
        log.log(self._level, "%s", "  ".join(line))


class NotebookProgress(pl.Callback):
    """Shows epoch, step, rows per second and the last validation's metrics, twice a second at most."""

    def __init__(self) -> None:
        self._shown: Any = None  # IPython's handle of what is displayed
        self._said = 0.0
        self._rows, self._since = 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the line."""
        from IPython.display import HTML, display

        self._rows, self._since = 0, time.monotonic()
        self._shown = display(HTML(self._line(trainer, pl_module)), display_id=True)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Replaces it if half a second has passed."""
        self._rows += len(batch)
        if time.monotonic() - self._said >= _OFTEN:
            self._replace(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replaces it, with the new metrics."""
        self._replace(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replaces it once more."""
        self._replace(trainer, pl_module)

    def _replace(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        from IPython.display import HTML

        self._said = time.monotonic()
        if self._shown is not None:
            self._shown.update(HTML(self._line(trainer, module)))

    def _line(self, trainer: pl.Trainer, module: pl.LightningModule) -> str:
        assert isinstance(module, FineTuning)
        steps, done = int(trainer.estimated_stepping_batches), trainer.global_step
        speed = self._rows / max(1e-6, time.monotonic() - self._since)
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 1)
        told = [f"epoch {epoch}/{trainer.max_epochs}", f"step {done}/{steps}", f"{speed:,.0f} rows/s"]
        told += [f"val/{name} {value:.4f}" for name, value in _shown(module).items()]
        return f'<progress value="{done}" max="{steps}"></progress> {escape("  ".join(told))}'


def _told(module: FineTuning) -> list[str]:
    return [f"val/{name} {value:.4f}" for name, value in _shown(module).items()]


def _shown(module: FineTuning) -> dict[str, float]:
    return {k: v for k, v in module.results.get("val", {}).items() if k in ("loss", *module.task.headlines)}


def progress(kind: str) -> list[pl.Callback]:
    """The callbacks for `auto`, `rich`, `plain` or `none`."""
    notebook = Console().is_jupyter  # where a terminal's bar would be a line for each of its states
    if kind == "auto":
        kind = "rich" if sys.stderr.isatty() or notebook else "plain"
    if kind == "rich" and notebook:
        return [NotebookProgress(), PlainProgress(logging.DEBUG)]
    if kind == "rich":
        return [Bar(console_kwargs={"stderr": True}), PlainProgress(logging.DEBUG)]
    return [PlainProgress()] if kind == "plain" else []
