"""Numbers in what others wrote: values of JSON, cells of tables."""

from __future__ import annotations

from typing import Any


def number(value: Any) -> float | None:
    """A number; None for anything else in a foreign file, such as a truth value."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def number_in(text: str) -> float | None:
    """The number that a text is; None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None
