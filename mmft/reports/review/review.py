"""What people's marks say of a run: as text, as a part of its page, and as a table of the marked rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmft.config.wording import listed
from mmft.errors import UserError
from mmft.reports.aligned import aligned
from mmft.reports.page.evidence import Answers, Evidence
from mmft.reports.page.html import cell
from mmft.reports.review.between_people import agreement_parts
from mmft.reports.review.consensus import Reviewed, reviewed
from mmft.reports.review.marks import MARKS, Mark, contradictions, latest, read_marks, warn_of
from mmft.reports.review.part import Part
from mmft.reports.review.with_labels import correction_parts
from mmft.run_folder import short_name

_MOST_LINES, _WIDEST = 20, 60  # of a table in the terminal: lines, characters of a cell


@dataclass(frozen=True)
class Review:
    """What people's marks say of a run.

    Attributes:
        parts: titled sentences and tables.
        rows: the marked rows, for a file.
    """

    parts: Sequence[Part] = field(repr=False)
    rows: Sequence[dict[str, Any]] = field(repr=False)

    def __str__(self) -> str:
        return "\n\n".join(_as_text(part) for part in self.parts)


def review(run: Evidence, files: Sequence[Path]) -> Review:
    """Sums up marks.

    Args:
        run: the run that was marked.
        files: with the marks.

    Raises:
        UserError: the run has no predictions, a line is broken, or is of another run, row or answer.
    """
    marks = read_marks(files)
    name = short_name(run.folder.path)
    warn_of([f"{one.place}: marks the run {one.run}, not {name}" for one in marks if short_name(Path(one.run)) != name])
    if not marks:
        raise UserError(f"marks={files[0]}: the file is empty")
    if not run.answers[0].rows:
        raise UserError(f"run={run.folder.path}: it has no predictions.csv. Type mmft report run={run.folder.path}")
    inputs = [one for one in marks if one.row is None]
    of_task = _by_task(run.answers, [one for one in marks if one.row is not None])
    parts = [_people(name, [one for kept in of_task.values() for one in kept], inputs)]
    rows = []
    for answers in run.answers:
        if kept := of_task[answers.name]:
            found = reviewed(answers, kept)
            parts += [*agreement_parts(found), *correction_parts(answers, found)]
            rows += [_as_row(answers, one) for one in found]
    return Review(parts, rows)


def _by_task(tasks: Sequence[Answers], marks: Sequence[Mark]) -> dict[str, list[Mark]]:
    """The marks of each task, compared with its answers; one for each person and row."""
    names = [answers.name for answers in tasks]
    problems = [
        f"{one.place}: marks the task {one.task!r}; the run has {listed(names) if names != [''] else 'one task only'}"
        for one in marks
        if one.task not in names
    ]
    found = {}
    for answers in tasks:
        own = [one for one in marks if one.task == answers.name]
        known = zip(answers.rows, answers.column("prediction"), strict=True)
        rows = {int(row["row"]): (row["id"], prediction) for row, prediction in known}
        problems += contradictions(own, rows, answers.file("predictions").name)
        found[answers.name] = own
    warn_of(problems)
    return {name: latest(own) for name, own in found.items()}


def _people(name: str, marks: Sequence[Mark], inputs: Sequence[Mark]) -> Part:
    """Who made how many marks."""
    every = [*marks, *inputs]
    people = sorted({one.by for one in every})
    seen = sum(one.label_shown for one in marks)
    counted = len({(one.task, one.row) for one in marks})
    sentences = [f"{len(marks):,} marks of {counted:,} answers of {name}."]
    if seen:
        sentences.append(f"{seen:,} of them were made with the label in view, which may have had an influence.")
    if inputs:
        sentences.append(
            f"{len(inputs):,} more are of inputs that are no rows of the run (from mmft demo): counted here alone."
        )
    lines = []
    for person in people:
        own = [one.mark for one in every if one.by == person]
        lines.append([person, len(own), *(own.count(mark) for mark in MARKS)])
    return Part("Marks", sentences, ["by", "marks", *MARKS], lines)


def _as_row(answers: Answers, one: Reviewed) -> dict[str, Any]:
    """A marked row of `out`."""
    row, right = answers.rows[one.at], answers.right[one.at]
    return {
        "row": int(row["row"]),
        "id": row["id"],
        **({"task": answers.name} if answers.name else {}),
        "prediction": answers.value(one.at, "prediction"),
        "label": answers.value(one.at, "label"),
        "right_by_label": "" if right is None else "right" if right else "wrong",
        "mark": one.mark,
        **{mark: sum(own.mark == mark for own in one.marks) for mark in MARKS},
        "by": " | ".join(f"{own.by}: {own.mark}" for own in one.marks),
        "notes": " | ".join(f"{own.by}: {own.note}" for own in one.marks if own.note),
        "weight": one.weight,
    }


def _as_text(part: Part) -> str:
    """For a terminal."""
    lines = [part.title, *part.sentences]
    if part.rows:
        shown = [[" ".join(cell(value).split())[:_WIDEST] for value in row] for row in part.rows[:_MOST_LINES]]
        lines.append(aligned([list(part.header), *shown]))
    if len(part.rows) > _MOST_LINES:
        lines.append(f"and {len(part.rows) - _MOST_LINES:,} more; out=FILE has all")
    return "\n".join(lines)
