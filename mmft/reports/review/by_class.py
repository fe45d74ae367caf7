"""The precision of each class, corrected by people's marks."""

from __future__ import annotations

from collections.abc import Sequence

from mmft.reports.page.evidence import Answers
from mmft.reports.review.consensus import Reviewed, share_right
from mmft.reports.review.part import Part


def class_parts(answers: Answers, rows: Sequence[Reviewed], named: str) -> list[Part]:
    """The share of answers of each class that are right, by labels and by people; nothing of tasks without classes.

    Recall would need the true class of every wrong answer, which a mark does not tell.

    Args:
        answers: of all rows.
        rows: the marked ones.
        named: behind the title.
    """
    if not answers.task.has_classes:
        return []
    places: dict[str, list[int]] = {}
    for at, predicted in enumerate(answers.column("prediction")):
        places.setdefault(predicted, []).append(at)
    lines, without = [], []
    for predicted, own in sorted(places.items(), key=lambda item: -len(item[1])):
        of_class = set(own)
        found = share_right(answers, [row for row in rows if row.at in of_class], among=own)
        labelled = [right for at in own if (right := answers.right[at]) is not None]
        if found is None:
            without.append(predicted)
        else:
            lines.append([predicted, sum(labelled) / len(labelled) if labelled else None, *found, len(own)])
    told = ["The share of each class's answers that are right; unsure marks are left out."] if lines else []
    if without:
        classes = "class has" if len(without) == 1 else "classes have"
        told.append(
            f"{len(without):,} {classes} no figure, since of their answers not every kind (right and wrong by the "
            f"label) was marked: {', '.join(without[:20])}{', ...' if len(without) > 20 else ''}."
        )
    header = ["answer", "by labels", "by people", "95 % from", "to", "marked", "rows"]
    return [Part(f"Precision of each class{named}", told, header, lines)]
