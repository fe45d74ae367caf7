"""Columns of a table that are passed through as they are, to be written beside predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mmft.data.sources.raw import Column
from mmft.tasks.labels import text_of


class PassthroughColumns:
    """The values of some columns by row.

    Args:
        columns: by name. Python values of several types become text.

    Attributes:
        types: the Arrow type of each column.
    """

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = {name: _of_one_type(column) for name, column in columns.items()}
        self.types = {name: column.type for name, column in self._columns.items()}

    def row(self, row: int) -> dict[str, Any]:
        """The values in a row, as Python has them."""
        return {name: column[row].as_py() for name, column in self._columns.items()}


def _of_one_type(column: Column) -> pa.ChunkedArray:
    if isinstance(column, pa.ChunkedArray):
        return column
    try:
        return pa.chunked_array([pa.array(column)])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.chunked_array([[None if value is None else _as_text(value) for value in column]], pa.string())


def _as_text(value: Any) -> str:
    """As JSON, where a file has lists and objects that are not all of one form."""
    return json.dumps(value, ensure_ascii=False, default=text_of) if isinstance(value, (list, dict)) else text_of(value)
