"""Rows in memory as a file, so that a run on them can be resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from mmft.data.columns import is_null
from mmft.data.images.lists import as_all_images
from mmft.data.sources.memory import read_rows
from mmft.data.sources.raw import Column
from mmft.errors import UserError


def write_rows(rows: Any, path: Path, images: Collection[str]) -> None:
    """Writes all columns of rows as a Parquet file; pixels are encoded without loss.

    Args:
        rows: as for `read_rows`.
        path: the file.
        images: names of the columns that hold images.

    Raises:
        UserError: there are no rows, a row or a column cannot be written, or two columns have one name.
    """
    raw = read_rows(rows, None, _check_names)
    if raw.problems:
        row, (column, reason) = min(raw.problems.items())
        raise UserError(f"rows: row {row}{column and f', column {column}'}: {reason}")
    if not raw.length:
        raise UserError("rows: there are none")
    written = {
        name: _images(name, column) if name in images else _values(name, column) for name, column in raw.columns.items()
    }
    parquet.write_table(pa.table(written), path)


def _check_names(names: Sequence[str]) -> None:
    twice = [f"{count} columns are named {name}" for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"rows: {', '.join(twice)}. Rename or drop all but one")


def _images(name: str, column: Column) -> Any:
    """Paths as they are, and everything else as `{bytes, path}`."""
    if not isinstance(column, list):
        return column
    found, reasons = as_all_images(column)
    if reasons:
        row, reason = min(reasons.items())
        raise UserError(f"rows: row {row}, column {name}: {reason}")
    every = {"bytes": found.data, "path": found.paths}
    parts = {name: part.combine_chunks() for name, part in every.items() if part is not None}
    made = parts["path"] if found.data is None else pa.StructArray.from_arrays([*parts.values()], names=[*parts])
    return made if found.offsets is None else pa.ListArray.from_arrays(pa.array(found.offsets, pa.int32()), made)


def _values(name: str, column: Column) -> Any:
    if not isinstance(column, list):
        return column
    try:
        return pa.array([None if is_null(value) else value for value in column])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        kinds = sorted({type(value).__name__ for value in column if not is_null(value)})
        raise UserError(
            f"rows: column {name} holds {', '.join(kinds)}, which is no one type. Convert it to text, or leave it out"
        ) from error
