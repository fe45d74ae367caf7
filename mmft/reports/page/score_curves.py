"""ROC and precision-recall curves of scores, one class (or label) against the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_precision_recall_curve,
    binary_roc,
)

from mmft.reports.page.evidence import Answers

MOST_CURVES = 8
"""Classes with a curve of their own, the most frequent ones."""
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Scored(NamedTuple):
    """By class: each row's score (rows,), and whether the row truly belongs to it (rows,)."""

    scores: Mapping[str, Floats]
    right: Mapping[str, Bools]


class ScoreCurve(NamedTuple):
    """The curves of one class, from the highest threshold down; `rows` are those that truly belong to it."""

    false_positives: Floats
    true_positives: Floats
    recall: Floats
    precision: Floats
    area: float
    average_precision: float
    rows: int


def class_scores(answers: Answers, truths: Sequence[frozenset[str]]) -> Scored:
    """The score of each label; empty if labels have none.

    Args:
        answers: labelled ones.
        truths: the labels of each row.
    """
    names = answers.scored if answers.rows else []
    return Scored(
        {name: numbers(answers.column(f"score_{name}")) for name in names},
        {name: np.array([name in truth for truth in truths]) for name in names},
    )


def match_scores(answers: Answers) -> Scored:
    """The score of a match, by that name; empty without labelled rows of both kinds.

    Args:
        answers: labelled ones of image-text matching, whose score is the probability of a match.
    """
    right = np.array([label == "match" for label in answers.column("label")])
    if not right.any() or right.all():
        return Scored({}, {})
    return Scored({"match": numbers(answers.column("score"))}, {"match": right})


def scores_of(answers: Answers) -> Scored:
    """The scores of a task's labelled answers as far as they have curves.

    Args:
        answers: labelled ones.
    """
    task = answers.task
    if task.needs_both and not task.pairwise:
        return match_scores(answers)
    if task.has_classes or task.independent_labels:
        return class_scores(answers, answers.label_sets("label"))
    return Scored({}, {})


def numbers(column: Sequence[str]) -> Floats:
    """A column of predictions.csv as numbers (rows,); nan where there is none."""
    return np.array([float(value) if value else np.nan for value in column])


def score_curves(scored: Scored) -> dict[str, ScoreCurve]:
    """The curves of the most frequent classes; of several first that of all of them together, `all (micro)`."""
    scores, right = scored
    counts = Counter({label: int(there.sum()) for label, there in right.items()})
    chosen = [label for label, count in counts.most_common(MOST_CURVES) if 0 < count < len(right[label])]
    series = {label: (scores[label], right[label]) for label in chosen}
    if len(scores) > 1:
        together = np.concatenate(list(scores.values())), np.concatenate(list(right.values()))
        series = {"all (micro)": together} | series
    return {label: _curve(*both) for label, both in series.items()}


def _curve(scores: Floats, right: Bools) -> ScoreCurve:
    given, target = torch.from_numpy(scores), torch.from_numpy(right).long()
    false_positives, true_positives, _ = binary_roc(given, target)
    precision, recall, _ = binary_precision_recall_curve(given, target)
    area, average = float(binary_auroc(given, target)), float(binary_average_precision(given, target))
    fall_out, hits, recalled, precise = (
        one.double().numpy() for one in (false_positives, true_positives, recall, precision)
    )
    return ScoreCurve(fall_out, hits, recalled, precise, area, average, int(right.sum()))
