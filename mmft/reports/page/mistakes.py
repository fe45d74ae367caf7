"""The rows that a model gets wrong: with image, text, label, prediction, score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mmft.reports.page import html
from mmft.reports.page.evidence import Answers
from mmft.reports.page.row_cards import RowCards

_SHOWN = 12


def mistake_section(answers: Answers, cards: RowCards) -> str:
    """The most confident mistakes, and those whose label the model finds least likely, as HTML.

    Args:
        answers: labelled ones.
        cards: shows rows.
    """
    wrong = [at for at, right in enumerate(answers.right) if right is False]
    if not wrong:
        return html.section("Mistakes", html.paragraph("There are none."), level=3)
    scores = [float(value) if value else -np.inf for value in answers.column("score")]
    surest = sorted(wrong, key=lambda at: -scores[at])[:_SHOWN]
    parts = [
        html.paragraph(f"{len(wrong):,} of {len(answers.rows):,} rows. The most confident ones:"),
        html.entries(_cards(answers, surest, cards)),
    ]
    if answers.task.has_classes and answers.scored:
        of_truth = {at: _score_of(answers, at) for at in wrong if at not in surest}
        worst = sorted((at for at in of_truth if of_truth[at] is not None), key=lambda at: of_truth[at] or 0.0)[:_SHOWN]
        more = html.entries(_cards(answers, worst, cards, of_truth))
        parts.append(html.section("Further ones, whose label has the lowest score", more, level=4))
    return html.section("Mistakes", *parts, level=3)


def _score_of(answers: Answers, at: int) -> float | None:
    """The score of a row's own label; None if the model does not know the label."""
    value = answers.value(at, f"score_{answers.value(at, 'label')}")
    return float(value) if value else None


def _cards(
    answers: Answers, chosen: Sequence[int], cards: RowCards, of_truth: dict[int, float | None] | None = None
) -> Iterator[str]:
    labels, predictions, scores = (answers.column(name) for name in ("label", "prediction", "score"))
    for at in chosen:
        row = answers.rows[at]
        score = f" ({float(scores[at]):.3f})" if scores[at] else ""
        own = of_truth.get(at) if of_truth else None
        why = f"{predictions[at] or '(nothing)'}{score}, but the label is {labels[at]}"
        why += f" ({own:.3f})" if own is not None else ""
        yield html.entry(why, [shown_row(answers, cards, int(row["row"]), row["id"])])


def shown_row(answers: Answers, cards: RowCards, row: int, name: str, said: Sequence[str] = ()) -> str:
    """A row of predictions.csv as HTML; its number and id alone if the rows are no longer there."""
    if answers.split not in cards.splits:
        lines = "".join(html.paragraph(line) for line in said)
        return f'<div class="row">{lines}{html.paragraph(f"row {row} (id {name})")}</div>'
    return cards.card(answers.split, row, name, said)
