"""Reads CSV and TSV record by record, so that a broken line spoils its own row and no other.

Readers that skip broken lines shift the row numbers, and readers that trust every quote lose the lines
behind a stray one. Here a record that does not fit stays in its place as a problem, and a quote that
swallowed whole records is given up after its first line.
"""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Record(NamedTuple):
    """One data record. `problem` says why its fields cannot be used; the fields are then empty."""

    fields: list[str]
    problem: str | None


class _Lines:
    """Lines of a text stream that remembers those of the record being read and can take them back."""

    def __init__(self, stream: Iterator[str]) -> None:
        self._stream = stream
        self._returned: deque[str] = deque()
        self.record: list[str] = []
        self.ended = False
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._stream, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.number += 1
        self.record.append(line)
        return line

    def start_record(self) -> None:
        self.record = []

    def keep_first(self) -> None:
        """Gives back all lines of the record but its first."""
        self._returned.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1
        self.ended = False


@contextmanager
def unlimited_fields() -> Iterator[None]:
    """Lifts the csv module's global limit of 131,072 characters in one field."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def records(stream: Iterator[str], header: list[str], delimiter: str) -> Iterator[Record]:
    """The data records below `header`, which was taken off `stream` already; blank lines are no records.

    Args:
        stream: lines with their ends.
        header: the header's fields; every record must have as many.
        delimiter: what stands between fields.
    """
    lines = _Lines(stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.start_record()
        try:
            fields = next(reader, None)
        except csv.Error:
            fields = _loosely(lines, delimiter)
        if fields is None:
            return
        if fields and len(fields) == len(header):
            yield Record(fields, None)
        elif fields or lines.record[0].strip():
            yield Record([], _misfit(lines, len(fields), len(header), delimiter))


def _loosely(lines: _Lines, delimiter: str) -> list[str]:
    """The fields of a record with a quote out of place (`"red" disc`), as other readers take it.

    None if it spans lines, for then the quote may have opened in one record and closed in another.
    """
    return next(csv.reader(lines.record, delimiter=delimiter)) if len(lines.record) == 1 and not lines.ended else []


def _misfit(lines: _Lines, found: int, width: int, delimiter: str) -> str:
    """Why the record just read does not fit; gives lines back that a stray quote swallowed."""
    first = lines.number - len(lines.record) + 2  # 1-based, behind the header's line
    if len(lines.record) > 1 and _has_record(lines.record[1:], width, delimiter):
        lines.keep_first()
        return f"a quote that is opened in line {first} is not closed"
    if not found:
        return f"a quote that is opened in line {first} is not closed where the text ends"
    return f"{found} fields where the header has {width} (line {first})"


def _has_record(lines: Sequence[str], width: int, delimiter: str) -> bool:
    """Whether one of the lines is a whole record by itself."""
    return any(len(fields) == width for line in lines for fields in csv.reader([line], delimiter=delimiter))


def split_header(stream: Iterator[str], delimiter: str) -> list[str]:
    """The header's fields; an empty list for a file without a line."""
    for fields in csv.reader(stream, delimiter=delimiter):
        if fields:
            return fields
    return []
