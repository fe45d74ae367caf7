"""One self-contained HTML page that shows findings with the images and texts of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path

from mmft.config.schema.data import DataConfig
from mmft.data.splitting.splits import Split
from mmft.files import write_text
from mmft.reports.audit.finding import KINDS, Finding
from mmft.reports.page import html
from mmft.reports.page.row_cards import RowCards

MOST_ENTRIES = 200


def write_page(path: Path, findings: Sequence[Finding], splits: Mapping[str, Split], config: DataConfig) -> int:
    """Writes the page.

    Args:
        path: of the file.
        findings: worst first within each kind; the first ones of every kind are shown.
        splits: by name.
        config: how images are read.

    Returns:
        The number of findings shown: as many as fit into `MOST_ENTRIES` and `html.MOST_BYTES`.
    """
    kinds = {kind: list(group) for kind, group in groupby(sorted(findings, key=_order), lambda one: one.kind)}
    cards = RowCards(splits, config)
    shown: dict[str, list[str]] = {kind: [] for kind in kinds}
    size = 0
    for finding in islice(_in_turn(kinds), MOST_ENTRIES):
        entry = _entry(cards, finding)
        size += len(entry.encode())
        if size > html.MOST_BYTES - 10_000:  # what is around the entries is less
            break
        shown[finding.kind].append(entry)
    write_text(path, _document(shown, kinds))
    return sum(map(len, shown.values()))


def _order(finding: Finding) -> int:
    return list(KINDS).index(finding.kind)


def _in_turn(kinds: Mapping[str, Sequence[Finding]]) -> Iterator[Finding]:
    """The first of each kind, then the second of each, and so on."""
    for place in range(max(map(len, kinds.values()), default=0)):
        yield from (found[place] for found in kinds.values() if place < len(found))


def _document(shown: Mapping[str, Sequence[str]], kinds: Mapping[str, Sequence[Finding]]) -> str:
    parts = [
        html.section(
            f"{kind}: {len(entries):,} of {len(kinds[kind]):,}",
            html.paragraph(f"Rows {KINDS[kind]}"),
            html.entries(entries),
        )
        for kind, entries in shown.items()
    ]
    body = "".join(parts) or html.paragraph("Nothing was found.")
    return html.document("mmft check", "mmft check: suspects and near duplicates", body)


def _entry(cards: RowCards, finding: Finding) -> str:
    """One finding with its one or two rows."""
    rows = [cards.card(finding.split, finding.row, finding.id, [finding.label])]
    if finding.other_row is not None:
        rows.append(cards.card(finding.other_split, finding.other_row, finding.other_id, [finding.other_label]))
    return html.entry(finding.detail, rows)
