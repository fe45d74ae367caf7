"""What the `datasets` library says about its columns: names of classes."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_KEY = b"huggingface"  # of the schema's metadata, in Parquet and Arrow files alike


def named_classes(table: pa.Table) -> pa.Table:
    """The table with the numbers of `ClassLabel` columns, also in lists, replaced by the names of their classes.

    A number without a name, such as the -1 of an unlabelled row, becomes null.
    """
    features = _features(table.schema)
    for at, name in enumerate(table.column_names):
        if (names := _names(features.get(name))) is not None:
            table = table.set_column(at, name, _named(table.column(at), names))
    return table


def _features(schema: pa.Schema) -> dict[str, Any]:
    try:
        found = json.loads((schema.metadata or {})[_KEY])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(feature: Any) -> list[str] | None:
    """The names of a `ClassLabel`, or of a list of them; None for anything else."""
    if isinstance(feature, list):  # a list of one feature was written so before datasets 4
        feature = feature[0] if feature else None
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        return [str(name) for name in feature["names"]]
    return _names(feature.get("feature"))


def _named(column: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_integer(kind):
        known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
        return pc.take(pa.array(names), pc.if_else(known, column, pa.scalar(None, kind)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        rows = [
            None if row is None else [names[n] if n is not None and 0 <= n < len(names) else None for n in row]
            for row in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(rows, pa.list_(pa.string()))])
    return column
