"""The tuning plan as a table: on stderr for humans, as tuning.csv for programs."""

from __future__ import annotations

import csv
import logging
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmft.models.vision_language_model import PARTS
from mmft.tuning.plan import TuningPlan

log = logging.getLogger(__name__)
_COLUMNS = ("part", "method", "layers", "group", "tensors", "trained", "total", "lr", "weight_decay")


def plan_rows(plan: TuningPlan) -> list[list[object]]:
    """The table as rows, header first."""
    return [list(_COLUMNS), *([line[column] for column in _COLUMNS] for line in _lines(plan))]


def write_plan(plan: TuningPlan, path: Path) -> None:
    """Writes a CSV file with one line per optimizer group and one per frozen part."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(plan_rows(plan))


def plan_table(plan: TuningPlan) -> Table:
    """The plan as a printable table."""
    table = Table(title="What is trained", title_justify="left", box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("part", "method", "layers", "group") else "right")
    for line in _lines(plan):
        table.add_row(*(_shown(line[column]) for column in _COLUMNS))
    counts = plan.counts()
    share = counts["trainable"] / counts["total"]
    table.caption = f"{counts['trainable']:,} of {counts['total']:,} parameters are trained ({share:.2%})"
    table.caption_justify = "left"
    return table


def show_plan(plan: TuningPlan) -> None:
    """Prints the plan to stderr and writes it to train.log."""
    table = plan_table(plan)
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        terminal.width = 140
    terminal.print(table)
    with (copy := Console(width=140, file=StringIO())).capture() as text:
        copy.print(table)
    log.debug("%s", text.get())


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _lines(plan: TuningPlan) -> list[dict[str, object]]:
    """One line per group, and one per frozen part."""
    lines: list[dict[str, object]] = [
        {
            "part": g.part,
            "method": g.method,
            "layers": g.layers,
            "group": g.name,
            "tensors": len(g.parameters),
            "trained": g.size,
            "total": plan.totals[g.part],
            "lr": g.lr,
            "weight_decay": g.weight_decay,
        }
        for g in plan.groups
    ]
    for part in PARTS:
        if not plan.trained[part] and plan.totals[part]:
            known = {"part": part, "method": plan.methods[part], "trained": 0, "total": plan.totals[part]}
            lines.append(dict.fromkeys(_COLUMNS, "") | known)
    return lines
