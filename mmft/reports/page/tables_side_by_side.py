"""Of several test tables: the F1 of each class side by side."""

from __future__ import annotations

from collections.abc import Mapping

from mmft.reports.page import html
from mmft.reports.page.classes import ClassFigures, class_figures, label_figures
from mmft.reports.page.evidence import Answers, Evidence

_MOST_CLASSES = 200


def tables_section(run: Evidence) -> str:
    """A table for each task with classes or labels as HTML; nothing of a single test table."""
    tables = list(run.summary.get("tests") or {})
    if len(tables) < 2:
        return ""
    found = {table: {one.name: one for one in run.answers_on(f"test/{table}") if one.rows} for table in tables}
    return html.section("Test tables side by side", *(_compared(one, found) for one in run.answers))


def _compared(task: Answers, found: Mapping[str, Mapping[str, Answers]]) -> str:
    """The F1 of a task's classes, those that differ most between tables first."""
    figures = {table: _figures(of_task[task.name]) for table, of_task in found.items() if task.name in of_task}
    names = dict.fromkeys(name for one in figures.values() for name in one)
    if not names:
        return ""
    scores = {name: [one[name].f1 if name in one else None for one in figures.values()] for name in names}
    rows = [[name, *scores[name]] for name in sorted(scores, key=lambda name: -_spread(scores[name]))]
    told = "F1 of each class, those that differ most between the tables first."
    more = f"The first {_MOST_CLASSES} of {len(rows):,}." if len(rows) > _MOST_CLASSES else ""
    shown = html.paragraph(told, more) + html.table(["class", *figures], rows[:_MOST_CLASSES])
    return html.section(task.name, shown, level=3) if task.name else shown


def _figures(answers: Answers) -> Mapping[str, ClassFigures]:
    if answers.task.has_classes:
        return class_figures(answers.confusion)
    if answers.task.independent_labels:
        known = answers.labelled
        return label_figures(known.label_sets("label"), known.label_sets("prediction"))
    return {}


def _spread(values: list[float | None]) -> float:
    there = [value for value in values if value is not None]
    return max(there) - min(there)
