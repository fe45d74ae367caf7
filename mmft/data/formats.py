"""Reads table files into raw columns: CSV, TSV, JSONL and Parquet, row for row.

    file -> Raw -> Table

A problem of a whole file is a `UserError`; a problem of one row is recorded in `Raw.problems` under its row number and
does not shift the others. Only the wanted columns are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from mmft.data.delimited import records, split_header, unlimited_fields
from mmft.errors import UserError

Column: TypeAlias = "pa.ChunkedArray | list[Any]"
"""A raw column: typed by Arrow (CSV, Parquet), or Python values of any kind (JSONL, rows in memory)."""

Check = Callable[[Sequence[str]], None]
"""Checks the table's column names before rows are read; raises `UserError` if one is missing."""

CHUNK = 65_536
"""Rows of a CSV file converted to Arrow at once."""


@dataclass
class Raw:
    """Columns as in the file. `problems` holds `(column, reason)` of rows that could not be read."""

    length: int
    columns: dict[str, Column]
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)


def read_file(path: Path, wanted: Collection[str], check: Check, where: str) -> Raw:
    """Reads the wanted columns of a table file.

    Args:
        path: the file; its extension determines the format.
        wanted: names of the columns to keep; names that the file lacks are ignored.
        check: called with the file's column names.
        where: the config key and the file, for messages, as `data.path=rows.csv`.

    Raises:
        UserError: the file is missing, empty, damaged, or does not match its extension.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{where}: cannot read {path.suffix or 'no extension'!r}; allowed: {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"{where}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{where}: the file is empty")
        raw = reader(path, wanted, check, where)
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror or error}") from error
    if raw.length == 0:
        raise UserError(f"{where}: the table has no rows")
    return raw


def _refuse_wide_text(path: Path, where: str) -> None:
    """Raises UserError for UTF-16 and UTF-32, which would be read as rows of NULs; detects a BOM or an early NUL."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head.split(b"\n", 1)[0]:
        raise UserError(f"{where}: is not UTF-8 text but looks like UTF-16; save it as UTF-8")


def _read_delimited(path: Path, wanted: Collection[str], check: Check, where: str) -> Raw:
    _refuse_wide_text(path, where)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # Invalid UTF-8 becomes lone surrogates, which `text_chunk` detects in the wanted columns.
    with unlimited_fields(), path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        header = split_header(file, delimiter)
        if not header:
            raise UserError(f"{where}: the file is empty")
        check(header)
        places = {name: header.index(name) for name in wanted if name in header}
        return _collect_records(file, header, places, delimiter)


def _collect_records(file: Iterator[str], header: list[str], places: dict[str, int], delimiter: str) -> Raw:
    raw = Raw(0, {})
    chunks: dict[str, list[pa.Array]] = {name: [] for name in places}
    cells: dict[str, list[str | None]] = {name: [] for name in places}

    def flush() -> None:
        start = raw.length - len(next(iter(cells.values()), []))
        for name, values in cells.items():
            array, broken = text_chunk(values)
            chunks[name].append(array)
            for at in broken:
                raw.problems.setdefault(start + at, (name, "not UTF-8 text"))
            values.clear()

    for fields, problem in records(file, header, delimiter):
        if problem is not None:
            raw.problems[raw.length] = ("", problem)
        for name, place in places.items():
            cells[name].append(None if problem is not None else fields[place] or None)
        raw.length += 1
        if raw.length % CHUNK == 0:
            flush()
    flush()
    raw.columns = {name: pa.chunked_array(arrays, pa.string()) for name, arrays in chunks.items()}
    return raw


def text_chunk(values: Sequence[str | None]) -> tuple[pa.Array, list[int]]:
    """Strings as an Arrow array, and the indices of invalid Unicode (null in the array)."""
    try:
        return pa.array(values, pa.string()), []
    except UnicodeEncodeError:
        broken = [at for at, value in enumerate(values) if value is not None and not is_unicode(value)]
        skip = set(broken)
        return pa.array([None if at in skip else v for at, v in enumerate(values)], pa.string()), broken


def is_unicode(text: str) -> bool:
    """Whether the string can be encoded as UTF-8, that is, has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_jsonl(path: Path, wanted: Collection[str], check: Check, where: str) -> Raw:
    _refuse_wide_text(path, where)
    with path.open("rb") as file:
        return collect_mappings((_parse_line(line) for line in file if line.strip()), wanted, check)


def _parse_line(line: bytes) -> Mapping[str, Any] | str:
    """The line's object, or the reason why it has none."""
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError:
        return "not UTF-8 text"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return value if isinstance(value, dict) else f"not a JSON object but {type(value).__name__}"


def collect_mappings(rows: Iterable[Mapping[str, Any] | str], wanted: Collection[str], check: Check) -> Raw:
    """Columns from one mapping per row; a string instead is the reason why the row is unreadable."""
    raw = Raw(0, {})
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    names: dict[str, None] = {}
    for row in rows:
        if isinstance(row, str):
            raw.problems[raw.length] = ("", row)
            row = {}
        names.update(dict.fromkeys(row))
        for name, values in columns.items():
            values.append(row.get(name))
        raw.length += 1
    if names:
        check(list(names))
    raw.columns = {name: values for name, values in columns.items() if name in names}
    return raw


def _read_parquet(path: Path, wanted: Collection[str], check: Check, where: str) -> Raw:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            check(names)
            return from_arrow(file.read([name for name in names if name in wanted]), wanted)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{where}: is not a readable Parquet file: {str(error).splitlines()[0]}") from error


def from_arrow(table: pa.Table, wanted: Collection[str]) -> Raw:
    """The wanted columns of an Arrow table."""
    return Raw(table.num_rows, {name: table.column(name) for name in table.column_names if name in wanted})


_READERS: dict[str, Callable[[Path, Collection[str], Check, str], Raw]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
}
