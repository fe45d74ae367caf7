"""A run in Python, as `mmft.train` returns it: what its folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mmft.batch import BadRow
from mmft.errors import UserError
from mmft.reports.page.evidence import Evidence
from mmft.reports.review.marks import mark_files
from mmft.reports.review.review import Review, review
from mmft.run.loaded_model import LoadedModel, load
from mmft.run.report import Report, complete_predictions, write_report
from mmft.run_folder import RunFolder


class TrainedRun:
    """A run.

    >>> run = mmft.train(frame, image="image", text="title", label="label")  # doctest: +SKIP
    >>> run.summary["test"]["accuracy"], run.model.predict(frame)  # doctest: +SKIP

    Args:
        folder: the run folder.
        allow_code: whether `model` may run its plugins.

    Attributes:
        folder: the run folder.
    """

    def __init__(self, folder: Path, allow_code: bool = False) -> None:
        self.folder, self._allow_code = Path(folder).absolute(), allow_code
        self._files = RunFolder(self.folder)

    def __repr__(self) -> str:
        summary = self.summary
        told = [str(summary.get("status", "without a summary"))]
        monitor = str(summary.get("monitor", "")).rpartition("/")[2]
        for split in ("val", "test"):
            value = (summary.get(split) or {}).get(monitor)
            told += [f"{split} {monitor} {value:.4f}"] if isinstance(value, float) else []
        return f"<run {self.folder}: {', '.join(told)}>"

    @property
    def summary(self) -> dict[str, Any]:
        """Status, metrics of validation and test, times: summary.json as it is now."""
        return self._files.read_summary()

    @property
    def config(self) -> dict[str, Any]:
        """The whole config: config.yaml."""
        return self._files.read_config()

    @property
    def metrics(self) -> Any:
        """metrics.csv as a DataFrame of pandas, a row for each step that was logged.

        Raises:
            UserError: pandas is not installed, or nothing was logged yet.
        """
        if not self._files.metrics.exists():
            raise UserError(f"{self.folder} has no metrics.csv: no step of it was logged, or the folder is gone")
        return _frame(self._files.metrics)

    @property
    def bad_rows(self) -> Any:
        """Rows that could not be used, as a DataFrame of pandas with the reasons; empty if there are none."""
        if self._files.bad_rows.exists():
            return _frame(self._files.bad_rows)
        return _pandas().DataFrame(columns=BadRow._fields)

    def report(self) -> Report:
        """Writes the page that shows the run, report.html in its folder; a notebook shows what is returned."""
        complete_predictions(self._files)
        return write_report(self._files)

    def review(self, marks: str | Sequence[str] | None = None) -> Review:
        """What people's marks say of the run's answers; `print` shows it.

        Args:
            marks: as in `mmft review`; None for the files in the run folder.

        Raises:
            UserError: there is no such file, or marks are broken or not of the run's answers.
        """
        return review(Evidence(self._files), mark_files(marks, self.folder))

    @cached_property
    def model(self) -> LoadedModel:
        """The finished model, as `mmft.load` gives it.

        Raises:
            UserError: the run has none yet.
        """
        return load(self.folder, allow_code=self._allow_code)


def _frame(path: Path) -> Any:
    return _pandas().read_csv(path)


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError:
        raise UserError("this needs pandas, which is not installed. Type: pip install pandas") from None
    return pd
