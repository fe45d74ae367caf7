"""Curves of training, from metrics.csv: losses, the monitored metric, learning rates."""

from __future__ import annotations

from collections.abc import Sequence

from mmft.reports.page import charts, html
from mmft.reports.page.evidence import Evidence, read_table


def curve_section(run: Evidence) -> str:
    """The curves as HTML."""
    rows = read_table(run.folder.metrics)
    if not rows:
        return ""
    monitor = run.summary.get("monitor") or ""
    best = run.summary.get("best_step")
    marked = (float(best), "finished model") if best else None
    losses = {name: line for name in ("train/loss", "val/loss") if (line := line_of(rows, name))}
    named = [name for name in rows[0] if name.startswith("lr/")]
    rates = {name.removeprefix("lr/"): line for name in named if (line := line_of(rows, name))}
    shown = [charts.lines("loss", "loss", losses, "optimizer step", marked=marked)] if losses else []
    if monitor != "val/loss" and (line := line_of(rows, monitor)):
        shown.append(charts.lines("monitor", monitor, {monitor: line}, "optimizer step", marked=marked))
    if rates:
        shown.append(charts.lines("rates", "learning rate", _merged(rates), "optimizer step"))
    return html.section("Training", html.charts(*shown))


def line_of(rows: Sequence[dict[str, str]], name: str) -> charts.Line | None:
    """Steps and values of a column of metrics.csv; None without any."""
    there = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
    return ([step for step, _ in there], [value for _, value in there]) if there else None


def _merged(found: dict[str, charts.Line]) -> dict[str, charts.Line]:
    """Equal lines as one, named after all of them."""
    merged: dict[str, charts.Line] = {}
    for name, line in found.items():
        same = next((other for other, known in merged.items() if known == line), None)
        if same is None:
            merged[name] = line
        else:
            merged[f"{same}, {name}"] = merged.pop(same)
    return merged
