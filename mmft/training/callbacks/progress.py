"""Progress: a Rich bar on a terminal, a line with a bar in a notebook, plain lines on stderr otherwise."""

from __future__ import annotations

import logging
import math
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
        """The last logged loss; the monitored metric and the loss of the last validation."""
        assert isinstance(pl_module, FineTuning)
        loss = {} if pl_module.logged_loss is None else {"loss": _loss(trainer, *pl_module.logged_loss)}
        return loss | {f"val/{name}": f"{value:.4f}" for name, value in _shown(pl_module).items()}

    def _get_train_description(self, current_epoch: int) -> str:
        last = str(super()._get_train_description(current_epoch)).rpartition("/")[2]  # number of epochs minus one
        return f"Epoch {current_epoch + 1}/{int(last) + 1}"


def _loss(trainer: pl.Trainer, value: float, step: int) -> str:
    """A logged loss, with its optimizer step unless that is the last one."""
    return f"{value:.4f}" if step == trainer.global_step else f"{value:.4f} (step {step})"


class _Pace(pl.Callback):
    """How fast training is: the base of what shows progress without Lightning's bar.

    Rows per second leave validations out; the time left counts them, and is for all epochs, as if none stopped early.
    """

    def __init__(self) -> None:
        self._started = self._validating = self._validations = 0.0
        self._rows, self._first_step = 0, 0
        self._told_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock; a resumed run is timed from here."""
        self._started, self._validations = time.monotonic(), 0.0
        self._rows, self._first_step = 0, trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Counts the rows of a step; every rank has as many, the last ones aside."""
        self._rows += len(batch) * trainer.world_size

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock of the rate."""
        self._validating = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts it again."""
        self._validations += time.monotonic() - self._validating

    def due(self, seconds: float) -> bool:
        """Whether so many seconds have passed since the last line; restarts them if so."""
        if time.monotonic() - self._told_at < seconds:
            return False
        self._told_at = time.monotonic()
        return True

    def pace(self, trainer: pl.Trainer, module: FineTuning) -> list[str]:
        """The last logged loss, rows per second, time elapsed and left."""
        elapsed = time.monotonic() - self._started
        done, steps = trainer.global_step - self._first_step, trainer.estimated_stepping_batches
        told = [] if module.logged_loss is None else [f"loss {_loss(trainer, *module.logged_loss)}"]
        rate = self._rows / max(1e-6, elapsed - self._validations)
        told += [f"{rate:,.0f} rows/s" if rate >= 10 else f"{rate:.2g} rows/s", f"{_clock(elapsed)} elapsed"]
        if done and math.isfinite(steps):
            told.append(f"{_clock(elapsed / done * max(0, steps - trainer.global_step))} left")
        return told


class PlainProgress(_Pace):
    """Logs a line after every epoch and validation, and every ten seconds within an epoch.

    Args:
        level: log level; DEBUG sends the lines to train.log only.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        super().__init__()
        self._level = level
        self._validated = False  # in this epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restarts the ten seconds."""
        self.due(0)
        self._validated = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs a line if ten seconds have passed."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.due(_EVERY_SECONDS):
            self._log(trainer, f"step {batch_idx + 1}/{trainer.num_training_batches}", *self.pace(trainer, pl_module))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs a line within an epoch; at its end, `on_train_epoch_end` has the new metrics."""
        super().on_validation_end(trainer, pl_module)
        assert isinstance(pl_module, FineTuning)
        self._validated = trainer.is_last_batch or trainer.should_stop
        if trainer.state.fn == TrainerFn.FITTING and not self._validated:
            self._log(trainer, f"step {trainer.global_step}", *_validation(pl_module), *self.pace(trainer, pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs a line, with the validation metrics if this epoch was validated."""
        assert isinstance(pl_module, FineTuning)
        told = _validation(pl_module) if self._validated else []
        self._log(trainer, "done", f"step {trainer.global_step}", *told, *self.pace(trainer, pl_module))

    def _log(self, trainer: pl.Trainer, first: str, *told: str) -> None:
        log.log(self._level, "%s  %s", _epoch(trainer), "  ".join((first, *told)))


class NotebookProgress(_Pace):
    """Shows epoch, step, pace and the last validation's metrics, twice a second at most."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: Any = None  # IPython's handle of what is displayed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the line."""
        from IPython.display import HTML, display

        super().on_train_start(trainer, pl_module)
        self._shown = display(HTML(self._line(trainer, pl_module)), display_id=True)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Replaces it if half a second has passed."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.due(_OFTEN):
            self._replace(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replaces it, with the new metrics."""
        super().on_validation_end(trainer, pl_module)
        self._replace(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replaces it once more."""
        self._replace(trainer, pl_module)

    def _replace(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        from IPython.display import HTML

        if self._shown is not None:
            self._shown.update(HTML(self._line(trainer, module)))

    def _line(self, trainer: pl.Trainer, module: pl.LightningModule) -> str:
        assert isinstance(module, FineTuning)
        steps, done = trainer.estimated_stepping_batches, trainer.global_step
        told = [_epoch(trainer), f"step {done}/{steps}", *self.pace(trainer, module), *_validation(module)]
        return f'<progress value="{done}" max="{steps}"></progress> {escape("  ".join(told))}'


def _epoch(trainer: pl.Trainer) -> str:
    last = trainer.max_epochs or -1
    return f"epoch {trainer.current_epoch + 1}" if last < 0 else f"epoch {min(trainer.current_epoch + 1, last)}/{last}"


def _clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`.

    >>> _clock(61), _clock(7322)
    ('1:01', '2:02:02')
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


def _validation(module: FineTuning) -> list[str]:
    """The last validation's metrics."""
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
