"""TensorBoard: `logger=tensorboard` writes event files into the run folder; `tensorboard --logdir runs` shows them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmft import clock
from mmft.run_folder import RunFolder
from mmft.training.loggers.base import Prediction, RunLogger

EVENTS = "events.out.tfevents.*"


class TensorBoardLogger(RunLogger):
    """Writes event files by optimizer step. TensorBoard has no tables, so they are logged as text.

    Args:
        predictions: rows of the table of test predictions, and images logged with it.
    """

    def __init__(self, predictions: int) -> None:
        super().__init__(predictions)
        self._folder: Path | None = None
        self._opened: Any = None
        self._resumes = False
        self._step = 0
        self._newest: dict[str, int] = {}  # step of each metric's last point

    def start(self, folder: RunFolder, config: Mapping[str, Any]) -> None:
        """Writes the config, unless an earlier start has."""
        import yaml

        self._folder = folder.path
        self._resumes = any(folder.path.glob(EVENTS))
        if not self._resumes:
            text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
            self._writer(0).add_text("config", "\n".join(f"    {line}" for line in text.splitlines()), 0)

    def _writer(self, step: int) -> Any:
        """The writer, created at the first step that a resumed run logs; it purges that step and later ones."""
        if self._opened is None:
            with clock.importing():
                from torch.utils.tensorboard import SummaryWriter

            self._after_earlier_files()
            self._opened = SummaryWriter(str(self._folder), purge_step=step if self._resumes else None)
        return self._opened

    def _after_earlier_files(self) -> None:
        """Waits out the second of the last event file: TensorBoard orders files by second, then by process id."""
        assert self._folder is not None
        while any(int(file.name.split(".")[3]) == int(time.time()) for file in self._folder.glob(EVENTS)):
            time.sleep(0.05)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a point to every metric's curve."""
        self._step = self._step if step is None else step
        for name, value in metrics.items():
            if self._newest.get(name) != self._step:  # `epoch` is logged with training and validation metrics
                self._newest[name] = self._step
                self._writer(self._step).add_scalar(name, value, self._step)

    def log_table(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table as Markdown."""
        if self._resumes and self._step == 0:
            return  # logged before the resume
        lines = ["|".join(map(_cell, row)) for row in rows]
        lines.insert(1, "|".join("-" for _ in rows[0]))
        self._writer(self._step).add_text(name, "\n".join(f"|{line}|" for line in lines), self._step)

    def log_predictions(self, rows: Sequence[Prediction]) -> None:
        """Logs the table, and each image under a name with its row, label and prediction."""
        shown = [name for name in Prediction._fields if name != "image"]
        self.log_table("test/predictions", [shown, *([getattr(row, name) for name in shown] for row in rows)])
        for row in rows:
            if row.image is not None:
                named = re.sub(r"[^-\w.]", "_", f"row_{row.row}_{row.label}_predicted_{row.prediction}")
                self._writer(self._step).add_image(f"test_predictions/{named}", row.image, self._step)

    def finish(self, exit_code: int) -> None:
        """Closes the file."""
        if self._opened is not None:
            self._opened.close()


def _cell(value: Any) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return re.sub(r"\s+", " ", shown).replace("|", "\\|")
