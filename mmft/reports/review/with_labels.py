"""People and labels: the share of right answers as people see it, and the rows on which people and labels differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmft.reports.page.evidence import Answers
from mmft.reports.review.by_class import class_parts
from mmft.reports.review.consensus import Reviewed, share_right
from mmft.reports.review.marks import MARKS
from mmft.reports.review.part import Part

_KINDS = {True: "right by the label", False: "wrong by the label", None: "without a label"}


class Wording(NamedTuple):
    """What `right` means for a task, and what it means that people and labels differ."""

    right: str
    suspects: str
    contradicted: str


_OF_CLASSES = Wording(
    "right",
    "Suspects of wrong labels: people say right, the label says otherwise",
    "People say wrong, although the label agrees with the answer: the label may be wrong, too",
)
_OF_TEXTS = Wording(
    "right",
    "People say right, although the text is none of the references",
    "People say wrong, although the text is a reference: suspects of wrong references",
)
_OF_NUMBERS = Wording(
    "acceptable",
    "People say right, largest errors first: the label may be wrong",
    "People say wrong, smallest errors first",
)
_OF_PAIRS = Wording(
    "image and text belong together",
    "",
    "People say that image and text do not belong together: suspects of wrong pairs, most similar first",
)


def correction_parts(answers: Answers, rows: Sequence[Reviewed]) -> list[Part]:
    """The corrected figures, marks by label and score, and the rows on which people and labels differ."""
    task = answers.task
    by_kind = {True: _OF_TEXTS, False: _OF_CLASSES}[task.generates]
    words = _OF_NUMBERS if task.predicts_numbers else _OF_PAIRS if task.pairwise else by_kind
    named = f": {answers.name}" if answers.name else ""
    return [
        _corrected(answers, rows, words, named),
        *class_parts(answers, rows, named),
        _by_mark(answers, rows, named),
        *_by_label(answers, rows, named),
        *_listed(answers, rows, words, named),
    ]


def _corrected(answers: Answers, rows: Sequence[Reviewed], words: Wording, named: str) -> Part:
    """The share of right answers by labels and by people."""
    ways = {"unsure left out": None, "unsure as wrong": 0.0, "unsure as right": 1.0}
    unsure = any(row.mark == "unsure" for row in rows)
    lines = []
    labelled = [right for right in answers.right if right is not None]
    if labelled:
        lines.append(["labels", sum(labelled) / len(labelled), None, None, len(labelled)])
    for way, value in ways.items() if unsure else [("", None)]:
        found = share_right(answers, rows, value)
        if found is not None:
            lines.append([f"people, {way}" if way else "people", *found])
    sentences = [_population(answers, rows)]
    if not lines or lines[-1][0] == "labels":
        counted = {kind: sum(answers.right[row.at] is kind for row in rows) for kind in set(answers.right)}
        lacking = [_KINDS[kind] for kind, count in counted.items() if not count] or ["that are not unsure"]
        sentences.append(f"There is no figure by people: no answers {' and '.join(lacking)} are marked.")
    header = ["by", "share", "95 % from", "to", "rows"]
    return Part(f"Share of answers that are {words.right}{named}", sentences, header, lines)


def _population(answers: Answers, rows: Sequence[Reviewed]) -> str:
    drawn = sum(row.weight is not None for row in rows)
    every = f"the {len(answers.rows):,} rows of {answers.file('predictions').name}"
    if not drawn:
        return (
            f"The marks have no weights, so the figures hold for {every} only if the marked rows are like the others "
            "of their kind."
        )
    other = f"; {len(rows) - drawn:,} marked rows were not drawn and do not count here" if drawn < len(rows) else ""
    return f"For {every}: marked rows are weighted by how they were drawn{other}."


def _by_mark(answers: Answers, rows: Sequence[Reviewed], named: str) -> Part:
    """Mean score, and mean error of numbers, by mark: whether the model's own certainty tells right from wrong."""
    errors = _errors(answers)
    lines = []
    for mark in MARKS:
        own = [row.at for row in rows if row.mark == mark]
        scores = [float(score) for at in own if (score := answers.value(at, "score"))]
        known = [error for at in own if (error := errors[at]) is not None]
        lines.append(
            [mark, len(own), float(np.mean(scores)) if scores else None, float(np.mean(known)) if known else None]
        )
    used = [at for at in range(4) if at < 2 or any(line[at] is not None for line in lines)]
    header = ["mark", "rows", "mean score", "mean absolute error"]
    cut = [[line[at] for at in used] for line in lines]
    return Part(f"Marked answers{named}", (), [header[at] for at in used], cut)


def _by_label(answers: Answers, rows: Sequence[Reviewed], named: str) -> list[Part]:
    """Marked rows by what the label says and by what people say."""
    kinds = [kind for kind in _KINDS if kind is not None and kind in answers.right]
    lines = [
        [_KINDS[kind], *(sum(answers.right[row.at] is kind and row.mark == mark for row in rows) for mark in MARKS)]
        for kind in kinds
    ]
    return [Part(f"Labels and people{named}", (), ["marked rows", *MARKS], lines)] if lines else []


def _listed(answers: Answers, rows: Sequence[Reviewed], words: Wording, named: str) -> list[Part]:
    """The rows on which people and labels differ."""
    said = {mark: [row for row in rows if row.mark == mark] for mark in MARKS}
    if answers.task.predicts_numbers:
        errors = _errors(answers)
        there = {mark: [row for row in found if errors[row.at] is not None] for mark, found in said.items()}
        suspects = sorted(there["right"], key=lambda row: -(errors[row.at] or 0.0))[:5]
        contradicted = sorted(there["wrong"], key=lambda row: errors[row.at] or 0.0)[:5]
    elif answers.task.pairwise:
        suspects, contradicted = [], sorted(said["wrong"], key=lambda row: -float(answers.value(row.at, "score") or 0))
    else:
        suspects = [row for row in said["right"] if answers.right[row.at] is False]
        contradicted = [row for row in said["wrong"] if answers.right[row.at] is True]
    parts = []
    for title, found in ((words.suspects, suspects), (words.contradicted, contradicted)):
        if found:
            header = ["row", "id", "prediction", "label", "by", "notes"]
            parts.append(Part(f"{title}{named}", (), header, [_line(answers, row) for row in found]))
    return parts


def _line(answers: Answers, row: Reviewed) -> list[str]:
    found = answers.rows[row.at]
    people = ", ".join(mark.by for mark in row.marks if mark.mark == row.mark)
    notes = "; ".join(mark.note for mark in row.marks if mark.note)
    values = (answers.value(row.at, name) for name in ("prediction", "label"))
    return [found["row"], found["id"], *values, people, notes]


def _errors(answers: Answers) -> list[float | None]:
    """The absolute error of each row's number; None without a label, or with several targets."""
    pairs = zip(answers.column("prediction"), answers.column("label"), strict=True)
    return [_error(*pair) if answers.task.predicts_numbers else None for pair in pairs]


def _error(predicted: str, true: str) -> float | None:
    if not predicted or not true:
        return None
    one, other = json.loads(predicted), json.loads(true)
    return None if isinstance(one, dict) or isinstance(other, dict) else abs(float(one) - float(other))
