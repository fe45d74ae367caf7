"""The results on several test tables, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmft.reports.aligned import aligned
from mmft.training.table_evaluation import Evaluated


def side_by_side(
    metrics: Sequence[str], after: Mapping[str, Evaluated], before: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """One line per table: its rows, and each of some metrics, with `before` also what it was and the difference.

    A pretrained pair has no accuracy before its training, but a zero-shot accuracy, which is shown in its place.

    Args:
        metrics: names, as the task's `headlines`.
        after: the results by table.
        before: the metrics before the training, by table; None if there are none.
    """
    bad = any(found.bad for found in after.values())
    header = ["table", "rows", *(["bad rows"] if bad else [])]
    for name in metrics:
        header += [name] if before is None else [f"{name} before", "after", "difference"]
    lines = []
    for table, found in after.items():
        line = [table, str(found.rows), *([str(found.bad)] if bad else [])]
        for name in metrics:
            own = found.metrics.get(name)
            line += [_shown(own)] if before is None else _compared(_before(before.get(table, {}), name), own)
        lines.append(line)
    return aligned([header, *lines], right=range(1, len(header)))


def _before(metrics: Mapping[str, float], name: str) -> float | None:
    return metrics.get(name, metrics.get(f"zero_shot/{name}"))


def _compared(before: float | None, after: float | None) -> list[str]:
    known = before is not None and after is not None
    return [_shown(before), _shown(after), f"{after - before:+.4f}" if known else "-"]  # type: ignore[operator]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
