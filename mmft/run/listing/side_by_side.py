"""Several runs on one page: a table, a metric against each parameter that differs, importances, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmft.reports.page import charts, html
from mmft.reports.page.curves import line_of
from mmft.reports.page.evidence import read_table
from mmft.run.listing.found import FoundRun, loss_beside, minimised_by, rank, ranked_by
from mmft.run.listing.importances import explained

_MOST_CURVES = 8
_OF_WHAT_IS_MEASURED = {"task", "task.type", "task.tasks", "data.path", "data.val", "data.test", "data.columns.label"}


@dataclass(frozen=True)
class SideBySide:
    """Runs, and what differs between them.

    Attributes:
        runs: in order.
        names: of the runs, different from each other.
        varied: keys whose settings differ.
        settings: of each run, by key; a run may lack one.
        metric: that the runs are compared by, without a split.
    """

    runs: Sequence[FoundRun]
    names: Sequence[str]
    varied: Sequence[str]
    settings: Sequence[Mapping[str, str]]
    metric: str

    @property
    def by(self) -> str:
        """`metric` on the rows that runs are ranked by."""
        return ranked_by(self.metric, self.runs)

    def value(self, at: int) -> float | None:
        """A run's metric; None if it was pruned, since it is not comparable then."""
        return None if self.runs[at].status == "pruned" else self.runs[at].metrics.get(self.by)

    @property
    def ranked(self) -> list[int]:
        """Places of the runs, best first."""
        loss = loss_beside(self.by)
        minimised = minimised_by(self.runs)
        return sorted(
            range(len(self.runs)),
            key=lambda at: rank(self.value(at), self.by, self.runs[at].metrics.get(loss), minimised),
        )

    @property
    def best(self) -> int | None:
        """The place of the best run; None if none has the metric."""
        return next((at for at in self.ranked if self.value(at) is not None), None)


def best_sentence(side: SideBySide) -> str:
    """Which run is the best; empty if none has the metric."""
    if side.best is None:
        return ""
    value = side.runs[side.best].metrics[side.by]
    other = [key for key in side.varied if key in _OF_WHAT_IS_MEASURED]
    warning = f" But runs differ in {', '.join(other)}, so that it is not of the same rows or labels." if other else ""
    return f"Run {side.names[side.best]} has the best {side.by}: {html.figure(value)}.{warning}"


def runs_section(side: SideBySide) -> str:
    """All runs with settings and metrics, best first, as HTML."""
    found = dict.fromkeys(name for run in side.runs for name in run.metrics)
    metrics = sorted(found, key=lambda name: (name != side.by, not name.endswith(f"/{side.metric}")))
    rows = []
    for at in side.ranked:
        run = side.runs[at]
        settings = (side.settings[at].get(key, "") for key in side.varied)
        figures = (run.metrics.get(name) for name in metrics)
        seconds = None if run.seconds is None else round(run.seconds)
        rows.append([side.names[at], run.status, *settings, *figures, seconds])
    header = ["run", "status", *side.varied, *metrics, "seconds"]
    return html.section("Runs, best first", html.table(header, rows, marked=[] if side.best is None else [0]))


def varied_section(side: SideBySide) -> str:
    """The metric against each key that differs, and how much of its variance each key explains, as HTML."""
    drawn = html.charts(*(_against(side, key) for key in side.varied))
    return html.section(f"{side.by} by what was varied", _importances(side), drawn)


def curves_section(side: SideBySide) -> str:
    """The metric during training, of the best runs, as HTML."""
    found: dict[str, charts.Line] = {}
    for at in side.ranked:
        file = side.runs[at].folder.metrics
        if len(found) < _MOST_CURVES and file.exists() and (line := line_of(read_table(file), side.by)):
            found[side.names[at]] = line
    if not any(len(steps) > 1 for steps, _ in found.values()):
        return ""
    left_out = len(side.runs) > len(found) == _MOST_CURVES
    drawn = charts.lines("side-by-side", side.by, found, "optimizer step")
    told = html.paragraph(f"The {_MOST_CURVES} best runs.") if left_out else ""
    return html.section("During training", told, html.charts(drawn))


def _importances(side: SideBySide) -> str:
    """How much of the metric's variance each key explains, the most important first."""
    known = [(at, value) for at in range(len(side.runs)) if (value := side.value(at)) is not None]
    values = [value for _, value in known]
    found = {key: explained([side.settings[at].get(key, "") for at, _ in known], values) for key in side.varied}
    rows = sorted(((key, share) for key, share in found.items() if share is not None), key=lambda one: -one[1])
    told = (
        f"Share of the variance of {side.by} that a key explains by itself, adjusted for its number of values: 1 is "
        "all, 0 no more than chance. What is left is chance, and what keys do together."
    )
    return html.paragraph(told) + html.table(["key", "variance explained"], rows) if rows else ""


def _against(side: SideBySide, key: str) -> str:
    """A point for each run, over numbers on their own scale, over words side by side; a line through the means."""
    pairs = zip(side.runs, side.settings, strict=True)
    found = [(settings.get(key, ""), run.metrics[side.by]) for run, settings in pairs if side.by in run.metrics]
    if not found:
        return ""
    return charts.scattered(f"varied-{side.varied.index(key)}", key, found, side.by)
