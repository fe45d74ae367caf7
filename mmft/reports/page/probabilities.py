"""Of scores: calibration, ROC and precision-recall curves, one class (or label) against the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmft.reports.page import charts, html
from mmft.reports.page.classes import plain
from mmft.reports.page.evidence import Answers
from mmft.reports.page.score_curves import (
    Bools,
    Floats,
    Scored,
    class_scores,
    match_scores,
    numbers,
    score_curves,
)
from mmft.tasks.metrics.names import CALIBRATION_BINS


class ReliabilityBins(NamedTuple):
    """By bin of confidence: mean confidence, share of right answers, rows; over all the expected calibration error."""

    confidence: Floats
    accuracy: Floats
    rows: npt.NDArray[np.int64]
    error: float


def probability_section(answers: Answers, truths: Sequence[frozenset[str]]) -> str:
    """Calibration and curves as HTML; nothing without a score of each label.

    Args:
        answers: labelled ones.
        truths: the labels of each row.
    """
    scored = class_scores(answers, truths)
    if not scored.scores:
        return ""
    name = f"{answers.name and '-'}{plain(answers.name)}"
    return html.section("Calibration", _calibration(answers, scored, f"calibration{name}"), level=3) + (
        html.section("Each class against the rest", _curves(scored, name), level=3)
    )


def match_section(answers: Answers) -> str:
    """Calibration and curves of the score of a match, as HTML; nothing without labelled rows of both kinds.

    Args:
        answers: labelled ones of image-text matching, whose score is the probability of a match.
    """
    scored = match_scores(answers)
    if not scored.scores:
        return ""
    found = reliability(scored.scores["match"], scored.right["match"])
    name = f"match{answers.name and '-'}{plain(answers.name)}"
    drawn = _bars(f"calibration-{name}", "how often image and text match, by the score", found)
    return html.section("Calibration", drawn, level=3) + html.section(
        "Match or no match", _curves(scored, name), level=3
    )


def reliability(confidence: Floats, right: Bools) -> ReliabilityBins:
    """Of predictions in bins of equal width, as in Guo et al. 2017."""
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    some = np.maximum(rows, 1)
    mean = np.bincount(bins, confidence, CALIBRATION_BINS) / some
    accuracy = np.bincount(bins, right.astype(float), CALIBRATION_BINS) / some
    return ReliabilityBins(mean, accuracy, rows, float((np.abs(mean - accuracy) * rows).sum() / max(rows.sum(), 1)))


def _calibration(answers: Answers, scored: Scored, name: str) -> str:
    """The reliability of the predicted class; of independent labels, of all their scores."""
    if answers.task.has_classes:
        predicted, labels = answers.column("prediction"), answers.column("label")
        right = np.array([a == b for a, b in zip(predicted, labels, strict=True)])
        found = reliability(numbers(answers.column("score")), right)
        told = "how often the predicted class is right, by its score"
    else:
        scores, there = (np.concatenate(list(values.values())) for values in scored)
        found = reliability(scores, there)
        told = "how often a label is there, by its score"
    return _bars(name, told, found)


def _bars(name: str, told: str, found: ReliabilityBins) -> str:
    there = found.rows > 0
    places = (np.arange(CALIBRATION_BINS) + 0.5)[there] / CALIBRATION_BINS
    drawn = charts.bars(name, told, places, found.accuracy[there], 1 / CALIBRATION_BINS, "score", "share", target=True)
    return html.paragraph(
        f"Expected calibration error: {found.error:.4f} ({CALIBRATION_BINS} bins). "
        "Bars below the diagonal: scores are too high; above it: too low."
    ) + html.charts(drawn)


def _curves(scored: Scored, name: str) -> str:
    found = score_curves(scored)
    roc: dict[str, charts.Line] = {label: (one.false_positives, one.true_positives) for label, one in found.items()}
    recall: dict[str, charts.Line] = {label: (one.recall, one.precision) for label, one in found.items()}
    own = len(found) - (len(scored.scores) > 1)
    note = f"The {own} most frequent of {len(scored.scores)}." if own < len(scored.scores) else ""
    rows = [[label, one.area, one.average_precision, one.rows] for label, one in found.items()]
    return (
        html.paragraph(note)
        + html.charts(
            charts.lines(f"roc{name}", "ROC", roc, "false positive rate", "true positive rate", unit=True),
            charts.lines(f"recall{name}", "precision and recall", recall, "recall", "precision", unit=True),
        )
        + html.table(["class", "area under ROC", "average precision", "rows"], rows)
    )
