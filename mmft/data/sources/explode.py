"""One row per text of a list: several captions of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from mmft.data.sources.raw import Column, Raw


def exploded(raw: Raw, texts: list[str]) -> Raw:
    """The rows with each list in the text columns as one row per text; all other columns repeat.

    Several text columns of a row must have lists of one length. An empty list is one row without a text.

    Args:
        raw: the columns.
        texts: names of the text columns.
    """
    lists = {name: _values(raw.columns[name]) for name in texts if name in raw.columns}
    counts = np.ones(raw.length, dtype=np.int64)
    problems = dict(raw.problems)
    for name, values in lists.items():
        for row, value in enumerate(values):
            length = max(1, len(value)) if isinstance(value, list) else 1
            if length > 1 and counts[row] not in (1, length):
                problems[row] = (name, f"{length} texts where another column has {counts[row]}")
            counts[row] = max(counts[row], length)
    rows = np.repeat(np.arange(raw.length), counts)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    made: dict[str, Column] = {}
    for name, column in raw.columns.items():
        if name in lists:
            made[name] = [_one(lists[name][row], at) for row, at in zip(rows.tolist(), places.tolist(), strict=True)]
        else:
            made[name] = [column[row] for row in rows] if isinstance(column, list) else column.take(pa.array(rows))
    return Raw(len(rows), made, {at: problems[row] for at, row in enumerate(rows.tolist()) if row in problems})


def _values(column: Column) -> list[Any]:
    return column if isinstance(column, list) else column.to_pylist()


def _one(value: Any, at: int) -> Any:
    """The text at a place of a list; a single text at every place."""
    if not isinstance(value, list):
        return value
    return value[at] if at < len(value) else None
