"""Marks that people give answers, one JSON object per line of a file."""

from __future__ import annotations

import json
import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mmft.reports.review.marks import PATTERN


class Marked(NamedTuple):
    """An answer that can be marked.

    Attributes:
        run: name of the run.
        row: number of the row in the run's table; None for a row of the page.
        id: its id; None for a row of the page.
        prediction: of the model.
    """

    run: str
    row: int | None
    id: str | None
    prediction: object


class MarksFile:
    """Appends marks to a file.

    Args:
        path: of the file, which need not exist.

    Attributes:
        path: as given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, answer: Marked, mark: str, note: str, by: str) -> None:
        """Appends a mark.

        Raises:
            OSError: the file cannot be written.
        """
        time = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({**answer._asdict(), "mark": mark, "note": note, "by": by, "time": time}, ensure_ascii=False)
        with self._lock, self.path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(line + "\n")


def file_name(by: str) -> str:
    """`marks-anna.jsonl`: the file of one person's marks."""
    return PATTERN.replace("*", re.sub(r"[^0-9A-Za-z_.-]+", "_", by) or "anonymous")
