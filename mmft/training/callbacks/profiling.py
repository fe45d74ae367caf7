"""`Profiling`: profiles a few optimizer steps with torch.profiler.

Writes `profile/table.txt` (operators and parts of the model by time) and `profile/trace.json` (the timeline, for
chrome://tracing and Perfetto) into the run folder.
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
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it warns on stderr if there is no GPU
_ROWS = 40  # rows of the table
_PARTS = ("image_encoder", "text_encoder", "fusion", "head")


class Profiling(pl.Callback):
    """Profiles `steps` optimizer steps after skipping the first `after` of this start.

    A step is timed from the end of the previous one, so it includes waiting for data; forward passes are labelled with
    the names of the model's parts.

    Args:
        folder: created when there is something to write.
        steps: number of optimizer steps to profile.
        after: optimizer steps to skip first, since the first are slower than all others.
    """

    def __init__(self, folder: Path, steps: int, after: int) -> None:
        self.folder, self.steps, self.after = folder, steps, after
        self._done = 0  # optimizer steps since this start
        self._profile: profile | None = None
        self._unhook: list[Callable[[], None]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts at once if no step is skipped."""
        self._begin_if_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Starts or ends the profile after the current step."""
        self._done += 1
        if self._profile is not None and self._done == self.after + self.steps:
            self._end(trainer)
        self._begin_if_due(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warns if training was too short; what was measured is written anyway."""
        if self._done >= self.after + self.steps:
            return
        wanted = f"callbacks.profile.steps={self.steps} after callbacks.profile.after={self.after}"
        log.warning("training ended after %d optimizer steps, before the profile was complete (%s)", self._done, wanted)
        if self._profile is not None:
            self._end(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stops the profiler; nothing is written."""
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
        text = f"{steps} optimizer steps, after skipping {self.after}\n{table}"
        (self.folder / "table.txt").write_text(text, encoding="utf-8")
        measured.export_chrome_trace(str(self.folder / "trace.json"))
        log.info("profile of %d optimizer steps: %s, %s", steps, self.folder / "table.txt", self.folder / "trace.json")


def _named(part: nn.Module, name: str) -> list[Callable[[], None]]:
    """Labels a part's forward passes in the profile; returns functions that undo it."""
    open_ranges: list[record_function] = []

    def enter(*_: Any) -> None:
        open_ranges.append(record_function(name))
        open_ranges[-1].__enter__()

    def leave(*_: Any) -> None:
        if open_ranges:  # empty if the profile started inside the pass
            open_ranges.pop().__exit__(None, None, None)

    return [part.register_forward_pre_hook(enter).remove, part.register_forward_hook(leave).remove]


def profiling(folder: Path, steps: int | None, after: int) -> list[pl.Callback]:
    """The callback, if `callbacks.profile.steps` is set."""
    return [] if steps is None else [Profiling(folder, steps, after)]
