"""Lines of cells as text whose columns stand under each other."""

from __future__ import annotations

from collections.abc import Sequence

Lines = list[list[str]]


def aligned(lines: Lines, right: Sequence[int] = ()) -> str:
    """Columns under each other, two blanks between them.

    Args:
        lines: of equal length, the header first.
        right: the columns that end under each other instead of beginning so.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in padded)
