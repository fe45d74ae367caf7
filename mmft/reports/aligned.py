"""Formats rows of cells as text with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence

Lines = list[list[str]]


def aligned(lines: Lines, right: Sequence[int] = ()) -> str:
    """Aligns the columns, separated by two spaces.

    Args:
        lines: of equal length, the header first.
        right: right-aligned columns; the others are left-aligned.
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
