"""`Raw`: columns as a source has them, before they are given roles."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from mmft.data.sources.features import named_classes

Column: TypeAlias = "pa.ChunkedArray | list[Any]"
"""A raw column: typed by Arrow (CSV, Parquet), or Python values of any kind (JSON, rows in memory)."""

Check = Callable[[Sequence[str]], None]
"""Checks the table's column names before rows are read; raises `UserError` if one is missing."""


Wanted: TypeAlias = "Collection[str] | None"
"""Names of the columns to keep; names that the source lacks are ignored. None for all."""


@dataclass
class Raw:
    """Columns as in the source. `problems` holds `(column, reason)` of rows that could not be read."""

    length: int
    columns: dict[str, Column]
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)


def joined(parts: Sequence[Raw]) -> Raw:
    """The rows of several sources, one after the other; a column that one of them lacks is null there."""
    if len(parts) == 1:
        return parts[0]
    whole = Raw(sum(part.length for part in parts), {})
    for name in dict.fromkeys(name for part in parts for name in part.columns):
        whole.columns[name] = _joined([part.columns.get(name, [None] * part.length) for part in parts])
    start = 0
    for part in parts:
        whole.problems |= {start + row: problem for row, problem in part.problems.items()}
        start += part.length
    return whole


def _joined(columns: Sequence[Column]) -> Column:
    """As one Arrow column if their types are equal, else as Python values."""
    kinds = {None if isinstance(column, list) else column.type for column in columns}
    if len(kinds) == 1 and None not in kinds:
        chunks = [chunk for column in columns for chunk in column.chunks]  # type: ignore[union-attr]
        return pa.chunked_array(chunks, type=kinds.pop())
    return [value for column in columns for value in (column if isinstance(column, list) else column.to_pylist())]


def chosen(names: Iterable[str], wanted: Wanted) -> list[str]:
    """Those of the names that are wanted."""
    return [name for name in names if wanted is None or name in wanted]


def from_arrow(table: pa.Table, wanted: Wanted) -> Raw:
    """The wanted columns of an Arrow table; classes of the `datasets` library by name."""
    table = named_classes(table.select(chosen(table.column_names, wanted)))
    return Raw(table.num_rows, {name: table.column(name) for name in table.column_names})


def from_mappings(rows: Iterable[Mapping[str, Any] | str], wanted: Wanted, check: Check) -> Raw:
    """Columns from one mapping per row; a string instead is the reason why the row is unreadable."""
    raw = Raw(0, {})
    columns: dict[str, list[Any]] = {}
    names: dict[str, None] = {}
    for row in rows:
        if isinstance(row, str):
            raw.problems[raw.length] = ("", row)
            row = {}
        for name in row:
            if name not in names:
                names[name] = None
                columns |= {name: [None] * raw.length for name in chosen([name], wanted)}
        for name, values in columns.items():
            values.append(row.get(name))
        raw.length += 1
    if names:
        check(list(names))
    raw.columns |= columns
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
