"""Of image-text retrieval: what is nearest to chosen queries, from nearest.csv."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mmft.reports.page import html
from mmft.reports.page.evidence import Answers, read_table
from mmft.reports.page.mistakes import shown_row
from mmft.reports.page.row_cards import RowCards


def retrieval_section(answers: Answers, cards: RowCards) -> str:
    """The nearest images of some texts, and the nearest texts of some images, as HTML."""
    path = answers.file("nearest")
    if not path.exists():
        return ""
    ids = {row["row"]: row["id"] for row in answers.rows}
    parts = []
    for query, rows in groupby(read_table(path), lambda row: row["query"]):
        other = "image" if query == "text" else "text"
        entries = []
        for row, group in groupby(rows, lambda one: one["row"]):
            entries.append(_query(answers, cards, row, list(group), ids))
        parts.append(html.section(f"Nearest {other}s of some {query}s", html.entries(entries), level=3))
    return "".join(parts)


def _query(answers: Answers, cards: RowCards, row: str, found: Sequence[dict[str, str]], ids: dict[str, str]) -> str:
    why = f"its own is at rank {int(found[0]['own_rank']):,}"
    shown = [shown_row(answers, cards, int(row), ids.get(row, row), ["query"])]
    for one in found:
        said = f"{one['rank']}: {float(one['score']):.3f}" + (" (its own)" if one["found"] == row else "")
        shown.append(shown_row(answers, cards, int(one["found"]), ids.get(one["found"], one["found"]), [said]))
    return html.entry(why, shown)
