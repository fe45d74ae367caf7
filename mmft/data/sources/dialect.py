"""How a delimited file is written: encoding, separator, blanks; recognised from its beginning where it is obvious."""

from __future__ import annotations

import codecs
import csv
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmft.config.schema.data import ReadingConfig
from mmft.data.sources.raw import Wanted
from mmft.errors import UserError

log = logging.getLogger(__name__)

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_SAMPLE = 1 << 18  # bytes that are looked at
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is the beginning of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_FEW = 50  # distinct values of a column of labels
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FILE = re.compile(r".*\.\w{2,5}", re.DOTALL)


class Dialect(NamedTuple):
    """How the fields of a file are separated.

    Attributes:
        encoding: a codec of Python.
        separator: one character.
        quoted: whether fields may be quoted as in CSV; otherwise quotation marks are text.
        strip: whether blanks around a field do not belong to it.
        kinds: the pattern of a column's fields (numbers, file names, one of a few values); None for free text.
    """

    encoding: str
    separator: str
    quoted: bool
    strip: bool
    kinds: tuple[re.Pattern[str] | None, ...]

    @property
    def width(self) -> int:
        """Number of fields of a record."""
        return len(self.kinds)

    def reader(self, lines: Iterable[str], strict: bool = False) -> Iterator[list[str]]:
        """The fields of each record."""
        quoting: Any = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return csv.reader(lines, delimiter=self.separator, quoting=quoting, strict=strict, skipinitialspace=self.strip)

    def literally(self, line: str) -> list[str]:
        """The fields of a line whose quotation marks are text."""
        return line.rstrip("\r\n").split(self.separator)

    def fits(self, fields: Sequence[str], columns: slice = slice(None)) -> bool:
        """Whether the fields may be a record: as many as the header's, and of their columns' kinds.

        With `columns`, at least one of these must be of a known kind.
        """
        if len(fields) != self.width:
            return False
        right = [kind is None or bool(kind.fullmatch(f.strip())) for kind, f in zip(self.kinds, fields, strict=True)]
        return all(right) and (columns == slice(None) or any(kind is not None for kind in self.kinds[columns]))


def recognised(path: Path, wanted: Wanted, reading: ReadingConfig, where: str) -> tuple[Dialect, list[str]]:
    """The dialect of a file and its column names; what differs from the usual is logged.

    The separator is the one that gives the most of the wanted columns, in doubt that of the file's extension.

    Args:
        path: the file.
        wanted: names of columns.
        reading: what the user has said; it is not guessed then.
        where: the config key and the file, for messages.

    Raises:
        UserError: the file is empty, or not text in this encoding.
    """
    with path.open("rb") as file:
        head = file.read(_SAMPLE)
    encoding = reading.encoding or _encoding(head, where)
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as text:
        try:
            sample = text.read(_SAMPLE)
            lines = [line for line in sample.splitlines(keepends=True) if line.strip()]
            lines = lines[:-1] if len(sample) == _SAMPLE and len(lines) > 1 else lines  # the last one is cut
        except UnicodeError as error:
            raise UserError(f"{where}: is not {encoding} text: {error}. Type data.reading.encoding=NAME") from error
    if not lines:
        raise UserError(f"{where}: the file is empty")
    separator = reading.separator or _separator(lines, wanted, usual)
    quoted = reading.quoting == "double"
    plain = Dialect(encoding, separator, quoted, strip=False, kinds=())
    names = next(plain.reader(lines))
    strip = any(name != name.strip() for name in names[1:])
    names = [name.strip() for name in names]
    if broken := [name for name in names if not name.isprintable() and _escaped(name)]:
        raise UserError(
            f"{where}: the column name {broken[0].encode(errors='surrogateescape')!r} is not {encoding.upper()} text. "
            "Type data.reading.encoding=cp1252 (Western Windows), or the file's own encoding"
        )
    told = [f"columns are separated by {SEPARATORS.get(separator, separator)}"] if separator != usual else []
    told += ["blanks around fields are removed"] if strip else []
    told += [f"the text is {encoding.upper()}"] if encoding.startswith(("utf-16", "utf-32")) else []
    if told and reading == ReadingConfig():
        log.info("%s: %s", where, ", ".join(told))
    dialect = plain._replace(strip=strip, kinds=(None,) * len(names))
    return dialect._replace(kinds=_kinds(dialect, lines[1:])), names


def _escaped(text: str) -> bool:
    return any("\udc80" <= sign <= "\udcff" for sign in text)


def _encoding(head: bytes, where: str) -> str:
    """UTF-8 unless a byte-order mark says otherwise."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    if b"\0" in head.split(b"\n", 1)[0]:
        raise UserError(
            f"{where}: is not UTF-8 text but looks like UTF-16. Type data.reading.encoding=utf-16-le, or save it as "
            "UTF-8"
        )
    return "utf-8"


def _separator(lines: Sequence[str], wanted: Wanted, usual: str) -> str:
    """The separator that gives the most wanted columns, then the usual one, then the one that gives most columns."""
    header = {one: [name.strip() for name in next(csv.reader(lines[:20], delimiter=one))] for one in SEPARATORS}
    found = {one: len({*(wanted or ())} & {*names}) for one, names in header.items()}
    if any(found.values()):
        return max(SEPARATORS, key=lambda one: (found[one], one == usual))
    return max(SEPARATORS, key=lambda one: (len(header[one]), one == usual))


def _kinds(dialect: Dialect, lines: Sequence[str]) -> tuple[re.Pattern[str] | None, ...]:
    """Per column, the pattern of its fields in lines without quotation marks (all, for lack of these); else None."""
    plain = [line for line in lines if '"' not in line] or lines
    records = [dialect.literally(line) for line in plain]
    whole = [[field.strip() for field in record] for record in records if len(record) == dialect.width]
    return tuple(_kind(column) for column in zip(*whole, strict=True)) if whole else dialect.kinds


def _kind(column: Sequence[str]) -> re.Pattern[str] | None:
    for pattern in (_NUMBER, _FILE):
        if all(map(pattern.fullmatch, column)):
            return pattern
    values = set(column)
    few = 1 < len(values) <= min(_FEW, len(column) // 3)
    return re.compile("|".join(map(re.escape, values))) if few else None
