"""Of predicted numbers: predicted against true, residuals, the largest errors."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mmft.data.spread import spread_evenly
from mmft.reports.page import charts, html
from mmft.reports.page.classes import plain
from mmft.reports.page.evidence import Answers
from mmft.reports.page.mistakes import shown_row
from mmft.reports.page.row_cards import RowCards

_SHOWN, _MOST_POINTS, _MOST_TARGETS = 12, 1_500, 8
Floats = npt.NDArray[np.float64]


def number_section(answers: Answers, cards: RowCards) -> str:
    """Charts of each target, and the rows with the largest errors, as HTML.

    Args:
        answers: labelled ones.
        cards: shows rows.
    """
    if not answers.rows:
        return ""
    true, found = _values(answers.column("label")), _values(answers.column("prediction"))
    parts = [_target(name, true[name], found[name], answers, cards) for name in list(true)[:_MOST_TARGETS]]
    more = f"The first {_MOST_TARGETS} of {len(true)} targets." if len(true) > _MOST_TARGETS else ""
    return html.paragraph(more) + "".join(parts)


def _values(column: list[str]) -> Mapping[str, Floats]:
    """The numbers of each target; a single one is named ""."""
    read = [json.loads(text) for text in column]
    rows = [row if isinstance(row, dict) else {"": row} for row in read]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def _target(name: str, true: Floats, found: Floats, answers: Answers, cards: RowCards) -> str:
    residuals = found - true
    order = np.argsort(-np.abs(residuals), kind="stable")
    some = spread_evenly(len(true), _MOST_POINTS)
    place = "-".join(["numbers", plain(answers.name), plain(name)])
    drawn = html.charts(
        charts.points(place, "predicted against true", true[some], found[some], "true", "predicted", "diagonal"),
        charts.points(f"{place}-r", "residuals", found[some], residuals[some], "predicted", "predicted - true", "zero"),
    )
    told = (
        f"{len(true):,} rows: root mean squared error {html.figure(float(np.sqrt((residuals**2).mean())))}, mean "
        f"absolute error {html.figure(float(np.abs(residuals).mean()))}, mean error "
        f"{html.figure(float(residuals.mean()))}."
    )
    entries = []
    for at in order[:_SHOWN].tolist():
        row = answers.rows[at]
        why = f"{html.figure(float(found[at]))} instead of {html.figure(float(true[at]))}"
        entries.append(html.entry(why, [shown_row(answers, cards, int(row["row"]), row["id"])]))
    largest = html.section("Largest errors", html.entries(entries), level=4)
    return html.section(name or "Predicted and true", html.paragraph(told), drawn, largest, level=3)
