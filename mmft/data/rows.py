"""Reads rows in memory: mappings, a pandas DataFrame (pandas is never imported here), Arrow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from mmft.data.formats import Check, Column, Raw, collect_mappings, from_arrow
from mmft.errors import UserError


def read_rows(rows: Any, wanted: Collection[str], check: Check) -> Raw:
    """Raw columns of rows in memory.

    Args:
        rows: a sequence of mappings, a pandas DataFrame, or an Arrow table.
        wanted: names of the columns to keep.
        check: called with the existing column names.

    Raises:
        UserError: `rows` has another type.
    """
    if isinstance(rows, pa.Table):
        check(rows.column_names)
        raw = from_arrow(rows, wanted)
    elif hasattr(rows, "columns") and hasattr(rows, "iloc"):
        raw = _from_pandas(rows, wanted, check)
    elif isinstance(rows, (str, bytes, Mapping)):
        raise UserError(f"rows: {type(rows).__name__} given; give a list of dicts, a DataFrame or an Arrow table")
    else:
        raw = collect_mappings(map(_mapping, rows), wanted, check)
    return raw if raw.length else Raw(0, {})  # without rows no column has a type to check


def _mapping(row: Any) -> Mapping[str, Any] | str:
    return row if isinstance(row, Mapping) else f"not a mapping but {type(row).__name__}"


def _from_pandas(frame: Any, wanted: Collection[str], check: Check) -> Raw:
    names = [str(name) for name in frame.columns]
    check(names)
    columns = {name: _series(frame.iloc[:, at]) for at, name in enumerate(names) if name in wanted}
    return Raw(len(frame), columns)


def _series(series: Any) -> Column:
    """The column as an Arrow array, or as Python values if their types are mixed."""
    try:
        array = pa.Array.from_pandas(series)
    except (pa.ArrowException, TypeError, UnicodeEncodeError):
        values: list[Any] = series.tolist()
        return values
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
