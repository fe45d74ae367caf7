"""Marks that people made of a run's answers: JSON lines, read, compared with the run, one for each person and row.

The page of `mmft report` and `mmft demo` write them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import glob
from pathlib import Path
from typing import Any

from mmft.errors import UserError
from mmft.files import located
from mmft.reports.numbers import number

log = logging.getLogger(__name__)
MARKS = ("right", "wrong", "unsure")
PATTERN = "marks-*.jsonl"
"""Names of files of marks in a run folder."""
_KEYS = ("run", "row", "id", "prediction", "mark", "note", "by", "time")
_MOST_TOLD = 20  # messages about one set of files


@dataclass(frozen=True)
class Mark:
    """What one person says of one answer.

    Attributes:
        place: file and line.
        run: the run's name, or its folder.
        row: number of the row in the run's table; None for an input that is no row of it.
        id: of the row.
        prediction: the answer that was marked, as in predictions.csv.
        mark: one of `MARKS`.
        note: anything; may be empty.
        by: who marked it.
        time: when.
        weight: number of rows that it stands for; None if the row was not drawn.
        task: which of several tasks; "" for the only one.
        label_shown: whether the person had looked at the label.
    """

    place: str
    run: str
    row: int | None
    id: str
    prediction: str
    mark: str
    note: str
    by: str
    time: datetime
    weight: float | None
    task: str
    label_shown: bool


def mark_files(given: str | Sequence[str] | None, folder: Path) -> list[Path]:
    """The files that `marks` names, in order; None names those in the run folder.

    Raises:
        UserError: there are none.
    """
    if given is None:
        found = sorted(folder.glob(PATTERN))
        if not found:
            raise UserError(f"marks is required: {folder} has no {PATTERN}. Type marks=FILE")
        return found
    files = [path for one in ([given] if isinstance(given, str) else given) for path in _named(one)]
    if not files:
        raise UserError("marks is an empty list. Type marks=FILE")
    return list(dict.fromkeys(files))


def _named(given: str) -> list[Path]:
    path = located(given)
    if path.is_file():
        return [path]
    found = [Path(one) for one in sorted(glob(str(path))) if Path(one).is_file()]  # noqa: PTH207 - absolute patterns
    if not found:
        raise UserError(f"marks={given}: there is no such file")
    return found


def read_marks(files: Sequence[Path]) -> list[Mark]:
    """The marks in these files, in order.

    Raises:
        UserError: lines are broken.
    """
    found: list[Mark] = []
    problems: list[str] = []
    for path in files:
        for count, line in enumerate(path.read_bytes().splitlines(), 1):
            place = f"{path} line {count}"
            try:
                if line.strip():
                    found.append(_read(line, place))
            except ValueError as error:
                problems.append(f"{place}: {error}")
    warn_of(problems)
    return found


def warn_of(problems: Sequence[str]) -> None:
    """Raises UserError with the first of these messages, if there are any, and the number of the others."""
    if problems:
        more = len(problems) - _MOST_TOLD
        raise UserError([*problems[:_MOST_TOLD], *([f"and {more:,} more lines"] if more > 0 else [])])


def _read(line: bytes, place: str) -> Mark:
    """A line. Raises ValueError with the reason if it is none."""
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except ValueError:
        raise ValueError("no JSON object; the line is broken") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object; the line is broken")
    missing = [key for key in _KEYS if key not in found]
    if missing:
        raise ValueError(f"the key {missing[0]!r} is missing")
    if found["mark"] not in MARKS:
        raise ValueError(f"mark is {found['mark']!r:.40}, not right, wrong or unsure")
    row, weight = found["row"], found.get("weight")
    if row is not None and (not isinstance(row, int) or isinstance(row, bool)):
        raise ValueError(f"row is {row!r:.40}, not the number of a row")
    if weight is not None and not (number(weight) or 0) >= 1:
        raise ValueError(f"weight is {weight!r:.40}, not a number of rows")
    if not isinstance(found["by"], str) or not found["by"].strip():
        raise ValueError("by is empty: it must name who made the mark")
    return Mark(
        place=place,
        run=str(found["run"]),
        row=row,
        id=str(found["id"]),
        prediction=_text(found["prediction"]),
        mark=found["mark"],
        note=str(found["note"] or ""),
        by=found["by"].strip(),
        time=_time(found["time"]),
        weight=None if weight is None else float(weight),
        task=str(found.get("task") or ""),
        label_shown=bool(found.get("label_shown")),
    )


def _text(prediction: Any) -> str:
    """As in predictions.csv, where the answers to several targets are a JSON object."""
    return prediction if isinstance(prediction, str) else json.dumps(prediction, ensure_ascii=False)


def _time(text: Any) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(f"time is {text!r:.40}, not a date and time such as 2026-11-28T09:30:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def contradictions(marks: Sequence[Mark], rows: Mapping[int, tuple[str, str]], table: str) -> Iterator[str]:
    """Yields what is wrong with marks of rows that the run has not, or answers otherwise.

    Args:
        marks: for one task.
        rows: id and prediction by row number.
        table: name of the file that has them.
    """
    for mark in marks:
        if mark.row is None or mark.row not in rows:
            yield f"{mark.place}: {table} has no row {mark.row}"
            continue
        name, prediction = rows[mark.row]
        if mark.id != name:
            yield f"{mark.place}: row {mark.row} has the id {name!r} in {table}, not {mark.id!r}"
        elif not _same(mark.prediction, prediction):
            yield (
                f"{mark.place}: row {mark.row} was marked for the prediction {mark.prediction!r:.60}, but {table} has "
                f"{prediction!r:.60}"
            )


def _same(one: str, other: str) -> bool:
    """Whether two predictions are one; numbers may be rounded differently."""
    if one == other:
        return True
    try:
        first, second = json.loads(one), json.loads(other)
    except ValueError:
        return False
    pairs = [(first, second)]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        pairs = [(first[name], second[name]) for name in first]
    return all(
        number(a) is not None and number(b) is not None and abs(a - b) <= 1e-4 * max(abs(a), abs(b), 1e-3)
        for a, b in pairs
    )


def latest(marks: Sequence[Mark]) -> list[Mark]:
    """One mark for each person and row, the last one, in the order of rows; tells how many it replaces."""
    found = {(one.by, one.row): one for one in sorted(marks, key=lambda one: one.time)}
    replaced = [one for one in marks if found[one.by, one.row] is not one]
    if replaced:
        log.warning(
            "%d of the marks are replaced by a later one of the same person for the same row, the first in %s",
            *(len(replaced), replaced[0].place),
        )
    return sorted(found.values(), key=lambda one: (one.row or 0, one.by))
