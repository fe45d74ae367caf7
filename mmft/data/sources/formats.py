"""Reads table files into raw columns, row for row: CSV, TSV, JSON (Lines), Parquet and Arrow.

    files -> Raw -> Table

To add a format, write a reader and enter it in `READERS`. A problem of a whole file is a `UserError`; a problem of one
row is recorded in `Raw.problems` under its row number and does not shift the others. Only the wanted columns are kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmft.config.paths import TABLES
from mmft.config.schema.data import ReadingConfig
from mmft.data.sources.delimited import records, unlimited_fields
from mmft.data.sources.dialect import Dialect, recognised
from mmft.data.sources.raw import Check, Raw, Wanted, chosen, from_arrow, from_mappings, is_unicode, text_chunk
from mmft.errors import UserError, first_line

log = logging.getLogger(__name__)
CHUNK = 65_536
"""Rows of a CSV file converted to Arrow at once."""


def read_table_file(path: Path, wanted: Wanted, check: Check, where: str, reading: ReadingConfig) -> Raw:
    """Reads the wanted columns of a table file.

    Args:
        path: the file; its extension determines the format.
        wanted: names of the columns to keep.
        check: called with the file's column names.
        where: the config key and the file, for messages, as `data.path=rows.csv`.
        reading: how text files are read.

    Raises:
        UserError: the file is missing, empty, damaged, or does not match its extension.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{where}: cannot read {path.suffix or 'no extension'!r}; allowed: {', '.join(TABLES)}")
    if not path.is_file():
        raise UserError(f"{where}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{where}: the file is empty")
        raw = reader(path, wanted, check, where, reading)
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:
        raise UserError(f"{where}: cannot be read as text: {error}. Type data.reading.encoding=NAME") from error
    if raw.length == 0:
        raise UserError(f"{where}: the table has no rows")
    return raw


def _read_delimited(path: Path, wanted: Wanted, check: Check, where: str, reading: ReadingConfig) -> Raw:
    with unlimited_fields():
        dialect, header = recognised(path, wanted, reading, where)
        check(header)
        places = {name: header.index(name) for name in chosen(dict.fromkeys(header), wanted)}
        # Bytes that are not text in this encoding become lone surrogates, which `text_chunk` detects.
        with path.open(encoding=dialect.encoding, errors="surrogateescape", newline="") as file:
            return _collect_records(file, places, dialect, where)


def _collect_records(file: Iterator[str], places: dict[str, int], dialect: Dialect, where: str) -> Raw:
    raw = Raw(0, {})
    chunks: dict[str, list[pa.Array]] = {name: [] for name in places}
    cells: dict[str, list[str | None]] = {name: [] for name in places}
    stray: list[int] = []
    unreadable = f"not {dialect.encoding.upper()} text; data.reading.encoding names another encoding"

    def flush() -> None:
        start = raw.length - len(next(iter(cells.values()), []))
        for name, values in cells.items():
            array, broken = text_chunk(values)
            chunks[name].append(array)
            for at in broken:
                raw.problems.setdefault(start + at, (name, unreadable))
            values.clear()

    for fields, problem, line in records(file, dialect):
        if problem is not None:
            raw.problems[raw.length] = ("", problem)
        if line is not None:
            stray.append(line)
        for name, place in places.items():
            cells[name].append(None if problem is not None else fields[place] or None)
        raw.length += 1
        if raw.length % CHUNK == 0:
            flush()
    flush()
    if stray:
        log.warning(
            "%s: a quotation mark is not closed within its record in %d %s, the first of them %d: it is read as text",
            *(where, len(stray), "line" if len(stray) == 1 else "lines", stray[0]),
        )
    raw.columns = {name: pa.chunked_array(arrays, pa.string()) for name, arrays in chunks.items()}
    return raw


def _read_lines(path: Path, wanted: Wanted, check: Check, where: str, reading: ReadingConfig) -> Raw:
    """JSON Lines."""
    encoding = reading.encoding or _encoding_of_json(path, where)
    with path.open(encoding=encoding, errors="surrogateescape", newline="\n") as file:
        return from_mappings((_parse_line(line, encoding) for line in file if line.strip()), wanted, check)


def _encoding_of_json(path: Path, where: str) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    found = json.detect_encoding(head)
    if not found.startswith("utf-8"):
        log.info("%s: the text is %s", where, found.upper())
    return found


def _parse_line(line: str, encoding: str) -> Mapping[str, Any] | str:
    """The line's object, or the reason why it has none."""
    if not is_unicode(line):
        return f"not {encoding.upper()} text; data.reading.encoding names another encoding"
    try:
        value = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return value if isinstance(value, dict) else f"not a JSON object but {type(value).__name__}"


def _read_json(path: Path, wanted: Wanted, check: Check, where: str, reading: ReadingConfig) -> Raw:
    """A JSON file with a list of objects, or JSON Lines under this extension."""
    encoding = reading.encoding or _encoding_of_json(path, where)
    with path.open(encoding=encoding, errors="surrogateescape") as file:
        begins = file.read(4096).lstrip()[:1]
    if begins != "[":
        return _read_lines(path, wanted, check, where, reading)
    try:
        rows = json.loads(path.read_text(encoding=encoding))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON: {error}") from error
    reasons = (row if isinstance(row, dict) else f"not a JSON object but {type(row).__name__}" for row in rows)
    return from_mappings(reasons, wanted, check)


def _read_parquet(path: Path, wanted: Wanted, check: Check, where: str, _: ReadingConfig) -> Raw:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:  # where pages have checksums
            names = file.schema_arrow.names
            check(names)
            return from_arrow(file.read(chosen(dict.fromkeys(names), wanted)), wanted)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{where}: is not a readable Parquet file: {first_line(error)}") from error


def _read_arrow(path: Path, wanted: Wanted, check: Check, where: str, _: ReadingConfig) -> Raw:
    """Arrow IPC files (Feather) and streams (what the `datasets` library saves)."""
    try:
        with pa.OSFile(str(path)) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{where}: is not a readable Arrow file: {first_line(error)}") from error
    check(table.column_names)
    return from_arrow(table, wanted)


READERS: dict[str, Callable[[Path, Wanted, Check, str, ReadingConfig], Raw]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".txt": _read_delimited,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}
"""The reader of each extension in `mmft.config.paths.TABLES`."""
