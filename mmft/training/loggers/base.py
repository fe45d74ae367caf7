"""What a logger besides metrics.csv is told, and when. To add one: subclass `RunLogger`, and register an option.

    with logger: start -> log_table("tuning") -> log_metrics ... -> log_table, log_predictions, log_model
    then `finish` with the exit code, however the run ended

`RunLogger` itself is the option `none`: every hook does nothing. It is also what every rank but the first has.

Legend: H W image height and width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from lightning.pytorch.loggers import Logger
from torch import Tensor

from mmft.errors import MmftError, exit_code_of
from mmft.run_folder import RunFolder

log = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """One row of the table of predictions."""

    row: int
    id: str
    image: Tensor | None  # (3, H, W) uint8, as the model saw it; None: the row has no image
    text: str | None
    label: str
    prediction: str
    score: float | None  # the task has none


class RunLogger(Logger):
    """One run of one logger; a context manager that finishes the run with its exit code.

    Args:
        predictions: rows of the table of test predictions; 0: none is wanted.
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
        """Nothing: `start` gets the config."""

    def start(self, folder: RunFolder, config: Mapping[str, Any]) -> None:
        """The run starts or goes on.

        Args:
            folder: the run's; a logger that writes files writes them here.
            config: what config.yaml holds; without secrets.

        Raises:
            UserError: the run cannot be logged; the message says what to type instead.
        """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Metrics by name after `step` optimizer steps."""

    def log_table(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """A table, its first row the header."""

    def log_predictions(self, rows: Sequence[Prediction]) -> None:
        """Some test rows as the finished model answers them."""

    def log_model(self, folder: Path) -> None:
        """The finished model; a logger keeps it if its option says so."""

    def finish(self, exit_code: int) -> None:
        """The run has ended; nothing comes after it. Also called where `start` was not reached."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.finish(exit_code_of(error))
        except MmftError:
            raise  # a signal while it was finishing
        except Exception as failed:  # noqa: BLE001 - what the run came to must not depend on who is told of it
            log.warning("%s could not finish: %s: %s", self.name, type(failed).__name__, failed)


def run_title(folder: RunFolder) -> str:
    """What a run is called elsewhere: `name/date_time`, in a sweep `name/date_time/number`."""
    return "/".join(folder.path.absolute().parts[-2 if folder.sweep is None else -3 :])
