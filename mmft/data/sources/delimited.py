"""Reads CSV and TSV record by record, so that a broken line affects only its own row.

Readers that skip broken lines shift row numbers, and readers that trust every quote lose the lines after a stray one.
Here a malformed record keeps its position as a problem, and a quoted field never swallows what is a record by itself.
"""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from mmft.data.sources.dialect import Dialect


class Record(NamedTuple):
    """One data record. `problem` is the reason why its fields are unusable, and `fields` is then empty.

    `stray`: the line of a quotation mark that was read as text, because its field would have swallowed records.
    """

    fields: list[str]
    problem: str | None = None
    stray: int | None = None


class _Lines:
    """Lines of a text stream, which remembers those of the current record and can return them to the stream."""

    def __init__(self, stream: Iterator[str], number: int) -> None:
        self._stream = stream
        self._returned: deque[str] = deque()
        self.record: list[str] = []
        self.ended = False
        self.number = number

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

    @property
    def first(self) -> int:
        """Number of the record's first line, from 1."""
        return self.number - len(self.record) + 1

    def keep_first(self) -> None:
        """Returns all lines of the record except its first to the stream."""
        self._returned.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1
        self.record = self.record[:1]
        self.ended = False


@contextmanager
def unlimited_fields() -> Iterator[None]:
    """Lifts the csv module's global limit of 131,072 characters in one field."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def records(stream: Iterator[str], dialect: Dialect) -> Iterator[Record]:
    """The data records below the header; blank lines are skipped.

    Args:
        stream: lines with their line endings, the header first.
        dialect: of the file; every record must have as many fields as the header.
    """
    header = _header_lines(stream, dialect)
    lines = _Lines(stream, header)
    reader = dialect.reader(lines, strict=True)
    while True:
        lines.start_record()
        try:
            fields = next(reader, None)
        except csv.Error:
            fields = _loosely(lines, dialect)
        if fields is None:
            return
        if len(lines.record) > 1 and _swallows(lines.record, dialect, whole=len(fields) == dialect.width):
            lines.keep_first()
            yield _first_alone(lines, dialect)
        elif any("\0" in line for line in lines.record):
            yield Record([], f"zero bytes in line {lines.first}: the file is damaged")
        elif fields and len(fields) == dialect.width:
            yield Record([field.strip() for field in fields] if dialect.strip else fields)
        elif fields or lines.record[0].strip():
            yield Record([], _misfit(lines, len(fields), dialect.width))


def _header_lines(stream: Iterator[str], dialect: Dialect) -> int:
    """Consumes the header and returns the number of its lines."""
    lines = _Lines(stream, 0)
    for fields in dialect.reader(lines):
        if fields:
            break
    return lines.number


def _loosely(lines: _Lines, dialect: Dialect) -> list[str]:
    """The fields of a record with a misplaced quotation mark (`"red" disc`).

    Literally if that gives as many fields as the header has, else as by lenient readers. Empty if it spans lines,
    because the quotation mark may then open in one record and close in another.
    """
    if len(lines.record) != 1 or lines.ended:
        return []
    fields = dialect.literally(lines.record[0])
    return fields if len(fields) == dialect.width else next(dialect.reader(lines.record))


def _first_alone(lines: _Lines, dialect: Dialect) -> Record:
    """The record's first line, whose quotation mark is text, or stray if it cannot be read so."""
    fields = dialect.literally(lines.record[0])
    if "\0" in lines.record[0]:
        return Record([], f"zero bytes in line {lines.first}: the file is damaged")
    if dialect.fits(fields):
        return Record([field.strip() for field in fields] if dialect.strip else fields, stray=lines.first)
    return Record([], f"a quote opened in line {lines.first} is not closed")


def _misfit(lines: _Lines, found: int, width: int) -> str:
    """Why the record just read is malformed."""
    if not found:
        return f"a quote opened in line {lines.first} is not closed by the end of the file"
    return f"{found} fields where the header has {width} (line {lines.first})"


def _swallows(record: Sequence[str], dialect: Dialect, whole: bool) -> bool:
    """Whether a record of several lines has others in it.

    If it does not have the header's number of fields, any line with enough of them is taken for one. If it has, more is
    needed, because a line of a text that is properly quoted may look like a record by chance: a line that fits the
    columns before the quoted one, which its own lines do not have; or a first line that fits those after it, which it
    does not have either.

    Args:
        record: the lines.
        dialect: of the file.
        whole: the record has as many fields as the header.
    """
    first, *rest = record
    opening = len(next(dialect.reader([first]))) - 1  # the column of the field that is not closed in this line
    readings = [fields for line in rest for fields in (dialect.literally(line), *dialect.reader([line]))]
    if not whole:
        return any(len(fields) >= dialect.width for fields in readings)
    if any(dialect.fits(fields, slice(0, opening)) for fields in readings):
        return True
    return dialect.fits(dialect.literally(first), slice(opening, None)) and any(map(dialect.fits, readings))
