"""`Span`: a range of numbers that a search samples from, given by `interval`, `range` or `tag(log, ...)`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep

from mmft.config.walk import types_of


class Span(NamedTuple):
    """All numbers from `low` to `high` inclusive; integers if both ends are integers."""

    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False


def span_of(schema: type, key: str, override: Override) -> Span | None:
    """The range that a search samples the key from; None if the values are listed.

    Raises:
        ValueError: gives the reason why it cannot be sampled.
    """
    sweep: Any = override._value
    if not isinstance(sweep, Sweep):
        return None
    if getattr(sweep, "shuffle", False):
        raise ValueError("shuffle has no effect in a search, which chooses its own order. Type choice(...)")
    log = "log" in sweep.tags
    if unknown := sweep.tags - {"log"}:
        raise ValueError(f"tag({', '.join(sorted(unknown))}, ...) is unknown. Type tag(log, interval(LOW, HIGH))")
    if isinstance(sweep, IntervalSweep):
        return _checked(Span(*_ends(sweep, float in types_of(schema, key)), log=log))
    if isinstance(sweep, RangeSweep):
        values = list(override.sweep_iterator())
        if len(values) < 2:
            return None
        low, high = sorted((values[0], values[-1]))  # type: ignore[type-var]
        step = abs(sweep.step)
        whole = isinstance(low, int) and isinstance(high, int)
        return _checked(Span(low, high, 1 if log and whole else step, log))  # type: ignore[arg-type]
    if log:
        raise ValueError("tag(log, ...) goes with interval(LOW, HIGH) or range(LOW, HIGH), not with listed values")
    return None


def _ends(sweep: IntervalSweep, fractions: bool) -> tuple[int | float, int | float]:
    """The ends of an interval, which Hydra parses as floats; converted to integers for integer keys."""
    ends: Any = (sweep.start, sweep.end)
    if fractions and not all(type(end) is int for end in ends):
        return float(ends[0]), float(ends[1])
    low, high = (int(end) if math.isfinite(end) and end == int(end) else end for end in ends)
    return low, high


def _checked(span: Span) -> Span:
    if not (math.isfinite(span.low) and math.isfinite(span.high) and span.low < span.high):
        raise ValueError(f"the range from {span.low} to {span.high} is empty: the first number must be the lower")
    if span.log and span.low <= 0:
        raise ValueError(f"tag(log, ...) needs numbers above 0, but the lowest is {span.low}")
    return span
