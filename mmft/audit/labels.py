"""How labels are spread over the splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmft.data.splits import Split
from mmft.listing.table import aligned

MOST = 30
"""Labels that get a line of their own."""


def label_table(splits: Mapping[str, Split]) -> str:
    """One line for each label, the commonest first: its rows and its share of them in each split."""
    counts = {name: Counter(map(_name, split.table.labels(split.rows))) for name, split in splits.items()}
    total: Counter[str] = sum(counts.values(), Counter())
    lines = [[label, *(_share(counts[name], label) for name in splits)] for label, _ in total.most_common(MOST)]
    if len(total) > MOST:
        rest = [label for label, _ in total.most_common()[MOST:]]
        lines.append([f"{len(rest)} others", *(str(sum(counts[name][label] for label in rest)) for name in splits)])
    return aligned([["label", *splits], *lines], right=range(1, len(splits) + 1))


def _share(count: Counter[str], label: str) -> str:
    return f"{count[label]:,} ({count[label] / max(count.total(), 1):.1%})"


def _name(label: Any) -> str:
    return "(none)" if label is None else str(label)
