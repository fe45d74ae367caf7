"""Reads CSV and TSV record by record, so that a broken line affects only its own row.

Readers that skip broken lines shift row numbers, and readers that trust every quote lose the lines after a stray one.
Here a malformed record keeps its position as a problem, and a quote that swallows whole records ends at its first line.
"""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Record(NamedTuple):
    """One data record. `problem` is the reason why its fields are unusable, and `fields` is then empty."""

    fields: list[str]
    problem: str | None


class _Lines:
    """Lines of a text stream, which remembers those of the current record and can return them to the stream."""

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
        """Returns all lines of the record except its first to the stream."""
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
    """The data records below `header`, which has already been consumed; blank lines are skipped.

    Args:
        stream: lines with their line endings.
        header: the header's fields; every record must have equally many.
        delimiter: between fields.
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
    """The fields of a record with a misplaced quote (`"red" disc`), parsed as by lenient readers.

    Empty if it spans lines, because the quote may then open in one record and close in another.
    """
    return next(csv.reader(lines.record, delimiter=delimiter)) if len(lines.record) == 1 and not lines.ended else []


def _misfit(lines: _Lines, found: int, width: int, delimiter: str) -> str:
    """Why the record just read is malformed; returns lines that a stray quote swallowed to the stream."""
    first = lines.number - len(lines.record) + 2  # 1-based, after the header line
    if len(lines.record) > 1 and _has_record(lines.record[1:], width, delimiter):
        lines.keep_first()
        return f"a quote opened in line {first} is not closed"
    if not found:
        return f"a quote opened in line {first} is not closed by the end of the file"
    return f"{found} fields where the header has {width} (line {first})"


def _has_record(lines: Sequence[str], width: int, delimiter: str) -> bool:
    """Whether one of the lines is a complete record by itself."""
    return any(len(fields) == width for line in lines for fields in csv.reader([line], delimiter=delimiter))


def split_header(stream: Iterator[str], delimiter: str) -> list[str]:
    """The header's fields; empty for a file without lines."""
    for fields in csv.reader(stream, delimiter=delimiter):
        if fields:
            return fields
    return []
