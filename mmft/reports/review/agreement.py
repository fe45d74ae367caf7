"""How far people agree: raw agreement, Cohen's kappa, Krippendorff's alpha."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations


def raw_agreement(units: Sequence[Sequence[str]]) -> float | None:
    """The share of pairs of marks of one row that are equal; None without a row that has two marks.

    Args:
        units: the marks of each row.
    """
    pairs = [one == other for marks in units for one, other in combinations(marks, 2)]
    return sum(pairs) / len(pairs) if pairs else None


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two people; None if it is undefined, since both gave all rows the same mark.

    Args:
        pairs: the marks of the rows that both marked.
    """
    if not pairs:
        return None
    first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    observed = sum(one == other for one, other in pairs) / len(pairs)
    chance = sum(first[mark] * second[mark] for mark in first) / len(pairs) ** 2
    return None if chance == 1 else (observed - chance) / (1 - chance)


def krippendorffs_alpha(units: Sequence[Sequence[str]]) -> float | None:
    """Krippendorff's alpha of nominal marks by any number of people; None if it is undefined.

    Args:
        units: the marks of each row, of whoever marked it; rows with fewer than two do not count.
    """
    paired = [marks for marks in units if len(marks) > 1]
    totals = Counter(mark for marks in paired for mark in marks)
    count = totals.total()
    expected = count**2 - sum(found**2 for found in totals.values())
    if not expected:
        return None
    differing = sum(
        (len(marks) ** 2 - sum(found**2 for found in Counter(marks).values())) / (len(marks) - 1) for marks in paired
    )
    return 1 - (count - 1) * differing / expected
