"""Of scores: calibration, ROC and precision-recall curves, one class (or label) against the rest."""

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

from mmft.reports.page import charts, html
from mmft.reports.page.classes import plain
from mmft.reports.page.evidence import Answers

BINS = 15
_MOST_CURVES = 8
Floats = npt.NDArray[np.float64]


class Reliability(NamedTuple):
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
    names = answers.scored
    if not names or not answers.rows:
        return ""
    scores = {name: _numbers(answers.column(f"score_{name}")) for name in names}
    right = {name: np.array([name in truth for truth in truths]) for name in names}
    name = f"{answers.name and '-'}{plain(answers.name)}"
    return html.section("Calibration", _calibration(answers, scores, right, f"calibration{name}"), level=3) + (
        html.section("Each class against the rest", _curves(scores, right, name), level=3)
    )


def match_section(answers: Answers) -> str:
    """Calibration and curves of the score of a match, as HTML; nothing without labelled rows of both kinds.

    Args:
        answers: labelled ones of image-text matching, whose score is the probability of a match.
    """
    right = np.array([label == "match" for label in answers.column("label")])
    if not right.any() or right.all():
        return ""
    scores = _numbers(answers.column("score"))
    found = reliability(scores, right)
    name = f"match{answers.name and '-'}{plain(answers.name)}"
    drawn = _bars(f"calibration-{name}", "how often image and text match, by the score", found)
    return html.section("Calibration", drawn, level=3) + html.section(
        "Match or no match", _curves({"match": scores}, {"match": right}, name), level=3
    )


def _numbers(column: Sequence[str]) -> Floats:
    return np.array([float(value) if value else np.nan for value in column])


def reliability(confidence: Floats, right: npt.NDArray[np.bool_]) -> Reliability:
    """Of predictions in bins of equal width, as in Guo et al. 2017."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    some = np.maximum(rows, 1)
    mean = np.bincount(bins, confidence, BINS) / some
    accuracy = np.bincount(bins, right.astype(float), BINS) / some
    return Reliability(mean, accuracy, rows, float((np.abs(mean - accuracy) * rows).sum() / max(rows.sum(), 1)))


def _calibration(
    answers: Answers, scores: Mapping[str, Floats], right: Mapping[str, npt.NDArray[np.bool_]], name: str
) -> str:
    """The reliability of the predicted class; of independent labels, of all their scores."""
    if answers.task.has_classes:
        predicted, labels = answers.column("prediction"), answers.column("label")
        found = reliability(
            _numbers(answers.column("score")), np.array([a == b for a, b in zip(predicted, labels, strict=True)])
        )
        told = "how often the predicted class is right, by its score"
    else:
        found = reliability(np.concatenate(list(scores.values())), np.concatenate(list(right.values())))
        told = "how often a label is there, by its score"
    return _bars(name, told, found)


def _bars(name: str, told: str, found: Reliability) -> str:
    there = found.rows > 0
    places = (np.arange(BINS) + 0.5)[there] / BINS
    drawn = charts.bars(name, told, places, found.accuracy[there], 1 / BINS, "score", "share", target=True)
    return html.paragraph(
        f"Expected calibration error: {found.error:.4f} ({BINS} bins). "
        "Bars below the diagonal: scores are too high; above it: too low."
    ) + html.charts(drawn)


def _curves(scores: Mapping[str, Floats], right: Mapping[str, npt.NDArray[np.bool_]], name: str) -> str:
    counts = Counter({label: int(there.sum()) for label, there in right.items()})
    chosen = [label for label, count in counts.most_common(_MOST_CURVES) if 0 < count < len(right[label])]
    micro = np.concatenate(list(scores.values())), np.concatenate(list(right.values()))
    series = {label: (scores[label], right[label]) for label in chosen}
    if len(scores) > 1:
        series = {"all (micro)": micro} | series
    roc: dict[str, charts.Line] = {}
    recall: dict[str, charts.Line] = {}
    rows = []
    for label, (found, true) in series.items():
        given, target = torch.from_numpy(found), torch.from_numpy(true).long()
        false_positives, true_positives, _ = binary_roc(given, target)
        precision, recalled, _ = binary_precision_recall_curve(given, target)
        roc[label] = false_positives.tolist(), true_positives.tolist()
        recall[label] = recalled.tolist(), precision.tolist()
        area, average = float(binary_auroc(given, target)), float(binary_average_precision(given, target))
        rows.append([label, area, average, int(true.sum())])
    left_out = len(scores) - len(chosen)
    note = f"The {len(chosen)} most frequent of {len(scores)}." if left_out else ""
    table = html.table(["class", "area under ROC", "average precision", "rows"], rows)
    return (
        html.paragraph(note)
        + html.charts(
            charts.lines(f"roc{name}", "ROC", roc, "false positive rate", "true positive rate", unit=True),
            charts.lines(f"recall{name}", "precision and recall", recall, "recall", "precision", unit=True),
        )
        + table
    )
