"""The interface of a logger besides metrics.csv. To add one, subclass `RunLogger` and register an option.

    with logger: start -> log_table("tuning") -> log_metrics ... -> log_table, log_predictions, log_model, log_curves
    then `finish` with the exit code, however the run ended

`RunLogger` itself is the option `none`, whose hooks do nothing; ranks other than the first use it too.

Legend: H W image height and width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from lightning.pytorch.loggers import Logger
from torch import Tensor

from mmft.errors import MmftError, exit_code_of
from mmft.run_folder import RunFolder

log = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """One row of the prediction table."""

    row: int
    id: str
    image: Tensor | None  # (3, H, W) uint8, as the model sees it; None if the row has no image
    text: str | None
    label: str
    prediction: str
    score: float | None  # None if the task has no scores
    split: str = "test"  # `test/photo` of a named table


class Curve(NamedTuple):
    """Points of a line, in order."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]


class RunLogger(Logger):
    """One logger for one run; a context manager that finishes with the run's exit code.

    Args:
        predictions: rows of the table of test predictions; 0 for no table.
    """

    def __init__(self, predictions: int = 0) -> None:
        super().__init__()
        self.predictions = predictions

    @property
    def name(self) -> str:
        """The logger's name for Lightning."""
        return type(self).__name__

    @property
    def version(self) -> str:
        """The logger's version for Lightning."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: `start` gets the config."""

    def start(self, folder: RunFolder, config: Mapping[str, Any]) -> None:
        """Called when the run starts or resumes.

        Args:
            folder: the run's; a logger that writes files writes them here.
            config: the contents of config.yaml, without secrets.

        Raises:
            UserError: the run cannot be logged; the message names the remedy.
        """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs metrics by name after `step` optimizer steps."""

    def log_table(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table whose first row is the header."""

    def log_predictions(self, rows: Sequence[Prediction]) -> None:
        """Logs some test rows with the finished model's predictions."""

    def log_curves(self, name: str, title: str, curves: Mapping[str, Curve], axes: tuple[str, str]) -> None:
        """Logs curves by class as one chart, `axes` being what is along x and y; ROC, for one."""

    def log_model(self, folder: Path) -> None:
        """Receives the finished model; a logger keeps it if its option asks for it."""

    def finish(self, exit_code: int) -> None:
        """Called last, when the run has ended, even if `start` was not reached."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.finish(exit_code_of(error))
        except MmftError:
            raise  # a signal during `finish`
        except Exception as failed:  # noqa: BLE001 - a logger must not change how the run ends
            log.warning("%s could not finish: %s: %s", self.name, type(failed).__name__, failed)


def run_title(folder: RunFolder) -> str:
    """A run's name in other tools: `name/date_time`, in a sweep `name/date_time/number`."""
    return "/".join(folder.path.absolute().parts[-2 if folder.sweep is None else -3 :])
