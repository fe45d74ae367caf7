"""`TimeLimit`: ends training when its time is up, on all ranks at the same step, and finishes the model."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning.pytorch as pl

from mmft.training.module import FineTuning

log = logging.getLogger(__name__)


class TimeLimit(pl.Callback):
    """Ends training as early stopping does: after the current step, with a validation and a save.

    Args:
        seconds: training time, including that before a resume.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._before = 0.0
        self._start: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Checks the clock."""
        assert isinstance(pl_module, FineTuning)
        if self._elapsed() > self.seconds:
            pl_module.agreement.wish("end")
        if pl_module.agreement.take("end"):
            log.info("trainer.max_time reached after optimizer step %d", trainer.global_step)
            trainer.should_stop = True

    def _elapsed(self) -> float:
        return self._before + (0.0 if self._start is None else time.monotonic() - self._start)

    def state_dict(self) -> dict[str, Any]:
        """Training time so far."""
        return {"seconds": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._before = state_dict["seconds"]


def time_limit(given: str | None) -> list[TimeLimit]:
    """The callback for `HH:MM:SS` or `DD:HH:MM:SS`; none for None."""
    if given is None:
        return []
    seconds, minutes, hours, days = ([int(part) for part in reversed(given.split(":"))] + [0])[:4]
    return [TimeLimit(((24 * days + hours) * 60 + minutes) * 60 + seconds)]
