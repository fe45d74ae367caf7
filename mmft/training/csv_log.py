"""metrics.csv: one row per logged optimizer step or evaluation, appended, and truncated on resume."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from mmft.files import naming, write_text


class CsvLog(Logger):
    """Appends rows; a new metric becomes the last column.

    Lightning's own CSVLogger deletes an existing file on resume.

    Args:
        path: the file.
        keep_rows: rows of an existing file that a resumed run keeps; None for all.
        writes: False on ranks that must not write.
    """

    def __init__(self, path: Path, keep_rows: int | None = None, writes: bool = True) -> None:
        super().__init__()
        self.path, self.writes = path, writes
        self._columns: list[str] = []
        self.rows = 0
        if writes and path.exists():
            with path.open(newline="", encoding="utf-8") as stream:
                old = list(csv.reader(stream))
            self._columns, kept = old[0], old[1:][:keep_rows]
            self.rows = len(kept)
            self._rewrite(kept)

    @property
    def name(self) -> str:
        """The logger's name for Lightning."""
        return "csv"

    @property
    def version(self) -> str:
        """The logger's version for Lightning."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: config.yaml has them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends a row of `step` (optimizer steps done) and the metrics."""
        if not self.writes:
            return
        row = {"step": step, **metrics}
        if new := [name for name in row if name not in self._columns]:
            rows = self._read()
            self._columns += new
            self._rewrite(rows)
        with naming(self.path), self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow([_text(row.get(name)) for name in self._columns])
        self.rows += 1

    def _read(self) -> list[list[str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as stream:
            return list(csv.reader(stream))[1:]

    def _rewrite(self, rows: list[list[str]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(self._columns)
        writer.writerows(row + [""] * (len(self._columns) - len(row)) for row in rows)
        write_text(self.path, text.getvalue())


def _text(value: Any) -> str:
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)
