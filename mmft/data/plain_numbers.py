"""Numbers written as text with other decimal and thousands marks than Python's."""

from __future__ import annotations

import re

import pyarrow as pa
from pyarrow import types

from mmft.data.sources.raw import Column


def with_plain_numbers(column: Column, decimal: str, thousands: str) -> Column:
    """The column with numbers written as text in the way that Python reads: `1.217,50` is `1217.50`.

    Args:
        column: any; only texts that are wholly such a number change.
        decimal: the decimal mark.
        thousands: the mark between groups of three digits, or `none`.
    """
    text = isinstance(column, list) or types.is_string(column.type) or types.is_large_string(column.type)
    if (decimal == "." and thousands == "none") or not text:
        return column
    group = "" if thousands == "none" else rf"(?:{re.escape(thousands)}\d{{3}})*"
    number = re.compile(rf"\s*[+-]?\d+{group}(?:{re.escape(decimal)}\d*)?\s*")
    values = column if isinstance(column, list) else column.to_pylist()
    plain = [
        value.replace(thousands, "").replace(decimal, ".").strip()
        if isinstance(value, str) and number.fullmatch(value)
        else value
        for value in values
    ]
    return plain if isinstance(column, list) else pa.chunked_array([plain], column.type)
