"""Reads the numbers of a row's label."""

from __future__ import annotations

import math
import re
from typing import Any

_MARKED = re.compile(r"\s*[+-]?\d[\d.,' ]*\s*$")  # a number with marks that Python does not read


def numbers_of(label: Any) -> dict[str, float]:
    """The targets of one row by column; a single column is named "". Raises ValueError with the reason."""
    if not isinstance(label, dict):
        return {"": _number(label, "")}
    return {name: _number(value, f"{name}: ") for name, value in label.items()}


def _number(value: Any, where: str) -> float:
    if value is None:
        raise ValueError(f"{where}no label")
    try:
        number = float(value)
    except (TypeError, ValueError):
        hint = (
            "; data.reading.thousands and data.reading.decimal say how it is written"
            if _MARKED.match(str(value))
            else ""
        )
        raise ValueError(f"{where}label {value!r:.40} is not a number{hint}") from None
    if not math.isfinite(number):
        raise ValueError(f"{where}label {value!r:.40} is not a finite number")
    return number
