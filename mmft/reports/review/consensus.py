"""What people say of each row together, and of all rows of one task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from mmft.reports.page.evidence import Answers
from mmft.reports.review.estimates import Estimate, Stratum, estimate
from mmft.reports.review.marks import Mark


@dataclass(frozen=True)
class Reviewed:
    """A row that was marked.

    Attributes:
        at: its place in `answers`.
        marks: of it, one for each person.
        mark: what most of them say; `unsure` if no mark has more than any other.
        weight: number of rows that it stands for; None if it was not drawn.
    """

    at: int
    marks: Sequence[Mark]
    mark: str
    weight: float | None


def reviewed(answers: Answers, marks: Sequence[Mark]) -> list[Reviewed]:
    """The marked rows of a task.

    Args:
        answers: the task's.
        marks: of its rows, one for each person and row.
    """
    places = {int(row["row"]): at for at, row in enumerate(answers.rows)}
    of_row: dict[int, list[Mark]] = {}
    for one in marks:
        if one.row is not None:
            of_row.setdefault(places[one.row], []).append(one)
    return [Reviewed(at, own, _most(own), _weight(own)) for at, own in of_row.items()]


def _weight(marks: Sequence[Mark]) -> float | None:
    return next((one.weight for one in marks if one.weight is not None), None)


def _most(marks: Sequence[Mark]) -> str:
    (mark, count), *others = Counter(one.mark for one in marks).most_common()
    return "unsure" if others and others[0][1] == count else mark


def share_right(
    answers: Answers, rows: Sequence[Reviewed], unsure: float | None = None, among: Sequence[int] | None = None
) -> Estimate | None:
    """The share of all answers, or of some of them, that are right as people see it.

    Rows are weighted by how they were drawn, and by how many rows are right and wrong by their labels, so it is the
    share of all rows, although mistakes are marked more often.

    Args:
        answers: of all rows.
        rows: the marked ones of these; if some were drawn, only these count.
        unsure: what an unsure row counts; None leaves it out.
        among: places of the answers that the share is of; None for all.

    Returns:
        None if rows of a kind (right, wrong, without a label) were not marked at all.
    """
    values = {"right": 1.0, "wrong": 0.0} | ({} if unsure is None else {"unsure": unsure})
    drawn = [row for row in rows if row.weight is not None] or rows
    kinds = answers.right if among is None else [answers.right[at] for at in among]
    sizes: Mapping[Hashable, int] = Counter(kinds)
    strata = []
    for kind, size in sizes.items():
        known = [row for row in drawn if answers.right[row.at] is kind and row.mark in values]
        strata.append(Stratum(size, [values[row.mark] for row in known], [row.weight or 1.0 for row in known]))
    return estimate(strata)
