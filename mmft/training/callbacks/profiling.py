"""`Profiling`: where the time of a few optimizer steps goes, measured by torch.profiler.

Writes into the run folder `profile/table.txt`, operators and parts of the model by time, and `profile/trace.json`,
the timeline, which chrome://tracing and Perfetto open.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from mmft.training.module import FineTuning

log = logging.getLogger(__name__)
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it reports on stderr that a machine has no GPU
_ROWS = 40  # of the table
_PARTS = ("image_encoder", "text_encoder", "fusion", "head")


class Profiling(pl.Callback):
    """Profiles `steps` optimizer steps, after the first `after` of this start have gone by.

    A step counts from the end of the one before, so that waiting for data is in it; forward passes bear the
    names of the model's parts.

    Args:
        folder: is made, when there is something to write.
        steps: how many optimizer steps are profiled.
        after: optimizer steps that come before and are not; the first are slower than all others.
    """

    def __init__(self, folder: Path, steps: int, after: int) -> None:
        self.folder, self.steps, self.after = folder, steps, after
        self._done = 0  # optimizer steps of this start
        self._profile: profile | None = None
        self._unhook: list[Callable[[], None]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins at once where nothing is left out."""
        self._begin_if_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Begins, or ends, after the step just done."""
        self._done += 1
        if self._profile is not None and self._done == self.after + self.steps:
            self._end(trainer)
        self._begin_if_due(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says so when training was too short; what was measured is written all the same."""
        if self._done >= self.after + self.steps:
            return
        wanted = f"callbacks.profile.steps={self.steps} after callbacks.profile.after={self.after}"
        log.warning("training ended after %d optimizer steps, before the profile was complete (%s)", self._done, wanted)
        if self._profile is not None:
            self._end(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leaves the profiler; nothing is written."""
        if self._profile is not None:
            self._stop()

    def _begin_if_due(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._done != self.after or not trainer.is_global_zero:
            return
        assert isinstance(module, FineTuning)
        for name in _PARTS:
            self._unhook += _named(getattr(module.model, name), name)
        activities = [ProfilerActivity.CPU]
        if trainer.strategy.root_device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities)
        self._profile.start()

    def _stop(self) -> profile:
        assert self._profile is not None
        measured, self._profile = self._profile, None
        measured.stop()
        for unhook in self._unhook:
            unhook()
        self._unhook = []
        return measured

    def _end(self, trainer: pl.Trainer) -> None:
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
        measured = self._stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        by = "device_time_total" if on_gpu else "cpu_time_total"
        table = measured.key_averages().table(sort_by=by, row_limit=_ROWS, max_name_column_width=60)
        steps = min(self.steps, self._done - self.after)
        text = f"{steps} optimizer steps, after {self.after} others\n{table}"
        (self.folder / "table.txt").write_text(text, encoding="utf-8")
        measured.export_chrome_trace(str(self.folder / "trace.json"))
        log.info("profile of %d optimizer steps: %s, %s", steps, self.folder / "table.txt", self.folder / "trace.json")


def _named(part: nn.Module, name: str) -> list[Callable[[], None]]:
    """Gives a part's forward passes its name in the profile; returns what undoes it."""
    open_ranges: list[record_function] = []

    def enter(*_: Any) -> None:
        open_ranges.append(record_function(name))
        open_ranges[-1].__enter__()

    def leave(*_: Any) -> None:
        if open_ranges:  # none, where the profile began inside the pass
            open_ranges.pop().__exit__(None, None, None)

    return [part.register_forward_pre_hook(enter).remove, part.register_forward_hook(leave).remove]


def profiling(folder: Path, steps: int | None, after: int) -> list[pl.Callback]:
    """The callback, where `callbacks.profile.steps` asks for it."""
    return [] if steps is None else [Profiling(folder, steps, after)]
