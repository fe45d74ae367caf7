"""What people say of the answers, from the files of marks in the run folder."""

from __future__ import annotations

from mmft.errors import UserError
from mmft.reports.page import html
from mmft.reports.page.evidence import Evidence
from mmft.reports.review.marks import PATTERN
from mmft.reports.review.review import review


def review_section(run: Evidence) -> str:
    """The parts of `mmft review` as HTML; the problem, if marks are of other answers; nothing without marks."""
    files = sorted(run.folder.path.glob(PATTERN))
    if not files:
        return ""
    try:
        found = review(run, files)
    except UserError as error:
        return html.section("What people say", html.paragraph(f"The marks are not shown. {error.messages[0]}"))
    parts = [
        html.section(
            part.title,
            html.paragraph(*part.sentences),
            html.table(part.header, part.rows) if part.rows else "",
            level=3,
        )
        for part in found.parts
    ]
    return html.section("What people say", *parts)
