"""Names of the columns of one of several tasks, or of one of several targets, in a table of predictions."""

from __future__ import annotations


def part_column(column: str, part: str) -> str:
    """The name in the table of all: `score_cat` of the part `kind` -> `score_kind_cat`.

    >>> part_column("score_cat", "kind"), part_column("label", "kind"), part_column("label", "")
    ('score_kind_cat', 'label_kind', 'label')
    """
    first, _, rest = column.partition("_")
    return "_".join(filter(None, (first, part, rest)))
