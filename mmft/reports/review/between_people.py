"""How far the people who marked the same rows agree."""

from __future__ import annotations

from collections.abc import Sequence

from mmft.reports.review.agreement import cohens_kappa, krippendorffs_alpha, raw_agreement
from mmft.reports.review.consensus import Reviewed
from mmft.reports.review.part import Part


def agreement_parts(rows: Sequence[Reviewed]) -> list[Part]:
    """Raw agreement, and Cohen's kappa of two people or Krippendorff's alpha of more; nothing of a single person."""
    people = sorted({mark.by for row in rows for mark in row.marks})
    if len(people) < 2:
        return []
    shared = [row for row in rows if len(row.marks) > 1]
    if not shared:
        return [
            Part("Agreement between people", ["No answer was marked by two people, so there is nothing to compare."])
        ]
    units = [[mark.mark for mark in row.marks] for row in shared]
    raw = raw_agreement(units)
    if len(people) == 2:
        name, value = "Cohen's kappa", cohens_kappa([(first, second) for first, second in units])
    else:
        name, value = "Krippendorff's alpha", krippendorffs_alpha(units)
    lines = [["raw agreement", raw], [name, value]]
    sentences = [
        f"{len(shared):,} answers were marked by two people or more; right, wrong and unsure count as three marks.",
        f"Raw agreement is the share of equal marks among all pairs of marks of one answer. {name}: "
        + ("1 is full agreement, 0 what chance would give." if value is not None else "undefined, as all are equal."),
    ]
    differing = [row for row in shared if len({mark.mark for mark in row.marks}) > 1]
    if differing:
        sentences.append(f"On {len(differing):,} of them people differ; out=FILE has the marks of each.")
    return [Part("Agreement between people", sentences, ["measure", "value"], lines)]
