"""Reads rows in memory. Their libraries are never imported here: a DataFrame brings its own methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from mmft.config.wording import kind_of
from mmft.data.sources.raw import Check, Column, Raw, Wanted, chosen, from_arrow, from_mappings
from mmft.errors import UserError

_EXPECTED = (
    "give a list of dicts, a dict of columns, a DataFrame of pandas or polars, an Arrow table, or rows of `datasets`"
)


def read_rows(rows: Any, wanted: Wanted, check: Check) -> Raw:
    """Raw columns of rows in memory.

    Args:
        rows: mappings in any iterable; one mapping, or a pandas Series, for one row; a mapping of columns; a DataFrame
            of pandas or polars; an Arrow table, record batch or reader; a data set of `datasets`.
        wanted: names of the columns to keep.
        check: called with the existing column names.

    Raises:
        UserError: `rows` has another type.
    """
    raw = _read(rows, wanted, check)
    return raw if raw.length else Raw(0, {})  # without rows no column has a type to check


def _read(rows: Any, wanted: Wanted, check: Check) -> Raw:
    if hasattr(rows, "iloc") and hasattr(rows, "columns"):
        return _from_pandas(rows, wanted, check)
    table = _as_arrow(rows)
    if table is not None:
        check(table.column_names)
        return from_arrow(table, wanted)
    if is_dataset_dict(rows):
        raise UserError(
            f"rows: splits {', '.join(rows)} given; give the rows of one, such as rows[{next(iter(rows))!r}]"
        )
    if isinstance(rows, Mapping):
        return _from_mapping(rows, wanted, check)
    if hasattr(rows, "to_dict") and hasattr(rows, "index"):  # a row of a pandas DataFrame
        return from_mappings([_row_of_frame(rows)], wanted, check)
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise UserError(f"rows: {kind_of(rows)} given; {_EXPECTED}")
    return from_mappings(map(_mapping, rows), wanted, check)


def is_dataset_dict(rows: Any) -> bool:
    """Whether these are the splits of a data set of `datasets`, by name."""
    return isinstance(rows, Mapping) and len(rows) > 0 and all(map(_is_data_set, rows.values()))


def _is_data_set(rows: Any) -> bool:
    return hasattr(rows, "features") and hasattr(rows, "with_format")


def _row_of_frame(series: Any) -> dict[str, Any]:
    row = dict(series.to_dict())
    if any(not isinstance(name, str) for name in row):
        raise UserError(
            "rows: a Series given whose index is not the names of columns, as that of a row is. Give a column as a "
            "DataFrame: series.to_frame()"
        )
    return row


def _as_arrow(rows: Any) -> pa.Table | None:
    """An Arrow table of what holds one; None for anything else."""
    if isinstance(rows, pa.RecordBatchReader):
        return rows.read_all()
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, pa.Table):
        return rows
    if _is_data_set(rows) and hasattr(rows, "__len__"):  # one that is streamed has none, and is read row by row
        taken = rows.with_format("arrow")[:]
        return taken.replace_schema_metadata(rows.features.arrow_schema.metadata)
    if hasattr(rows, "collect_schema") and hasattr(rows, "to_arrow"):  # polars
        return rows.to_arrow()
    return None


def _from_mapping(given: Mapping[str, Any], wanted: Wanted, check: Check) -> Raw:
    """A mapping of columns of one length, or one row."""
    lengths = {len(value) if isinstance(value, (list, tuple)) or _is_array(value) else None for value in given.values()}
    if None in lengths or len(lengths) != 1:
        return from_mappings([given], wanted, check)
    check(list(given))
    names = chosen(given, wanted)
    return Raw(lengths.pop() or 0, {name: list(given[name]) for name in names})


def _is_array(value: Any) -> bool:
    return getattr(value, "ndim", None) == 1


def _mapping(row: Any) -> Mapping[str, Any] | str:
    if isinstance(row, Mapping):
        return row
    if hasattr(row, "to_dict"):  # pandas
        return dict(row.to_dict())
    if hasattr(row, "_asdict"):  # a named tuple, as from `DataFrame.itertuples`
        return dict(row._asdict())
    return f"not a mapping but {type(row).__name__}"


def _from_pandas(frame: Any, wanted: Wanted, check: Check) -> Raw:
    names = [str(name) for name in frame.columns]
    check(names)
    keep = set(chosen(names, wanted))
    return Raw(len(frame), {name: _series(frame.iloc[:, at]) for at, name in enumerate(names) if name in keep})


def _series(series: Any) -> Column:
    """The column as an Arrow array, or as Python values if their types are mixed."""
    try:
        array = pa.Array.from_pandas(series)
    except (pa.ArrowException, TypeError, UnicodeEncodeError):
        values: list[Any] = series.tolist()
        return values
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
