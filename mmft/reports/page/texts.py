"""Of generated texts: prompts, answers, references; the least sure ones first."""

from __future__ import annotations

from mmft.reports.page import html
from mmft.reports.page.evidence import Answers
from mmft.reports.page.mistakes import shown_row
from mmft.reports.page.row_cards import RowCards, shortened
from mmft.tasks.answer_texts import references_of

_SHOWN = 24


def text_section(answers: Answers, cards: RowCards) -> str:
    """Rows with what was written and what should have been, as HTML.

    Args:
        answers: labelled ones.
        cards: shows rows.
    """
    if not answers.rows:
        return ""
    predictions, labels, scores = (answers.column(name) for name in ("prediction", "label", "score"))
    references = [references_of(label) for label in labels]
    order = sorted(range(len(labels)), key=lambda at: float(scores[at] or 0))[:_SHOWN]
    entries = []
    for at in order:
        row = answers.rows[at]
        said = [f"answer: {shortened(predictions[at])}", *(f"reference: {shortened(one)}" for one in references[at])]
        score = f"mean log-probability of its tokens {float(scores[at]):.3f}" if scores[at] else ""
        entries.append(html.entry(score, [shown_row(answers, cards, int(row["row"]), row["id"], said)]))
    prompt = getattr(answers.task, "prompt", None)
    asked = f"The prompt, around each row's text: {prompt}" if prompt else ""
    told = (
        f"{answers.right.count(True):,} of {len(labels):,} answers are a reference to the letter. The least sure ones:"
    )
    return html.section("Answers", html.paragraph(asked), html.paragraph(told), html.entries(entries), level=3)
