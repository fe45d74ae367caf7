"""Formats numbers for a page with a useful number of digits."""

from __future__ import annotations

import json
import math
from typing import Any


def signed(value: float, largest: float) -> str:
    """With sign; two decimals, or as many as give `largest`, the largest value shown beside it, three digits."""
    if largest == 0 or 0.1 <= largest < 100:
        return f"{value:+.2f}"
    if not 1e-4 <= largest < 1e6:
        return f"{value:+.1e}"
    return f"{value:+.{max(0, 2 - math.floor(math.log10(largest)))}f}"


def readable(prediction: Any) -> str:
    """Formats a number, or each number of a JSON object, to six digits; leaves anything else unchanged."""
    if isinstance(prediction, float):
        return f"{prediction:.6g}"
    try:
        found = json.loads(prediction)
    except (TypeError, ValueError):
        return str(prediction)
    if not isinstance(found, dict):
        return str(prediction)
    return "   ".join(f"{name} {readable(value)}" for name, value in found.items())
