"""Of classes: the confusion matrix, and precision, recall and F1 of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmft.reports.page import charts, html
from mmft.reports.page.evidence import Answers, Pairs

MOST_IN_A_HEAT_MAP = 40
_MOST_CONFUSED, _MOST_CLASSES = 10, 1_000


class ClassFigures(NamedTuple):
    """Of one class; `rows` are those that truly belong to it."""

    precision: float
    recall: float
    f1: float
    rows: int


def class_section(answers: Answers) -> str:
    """Confusion matrix and table of classes as HTML."""
    confusion = answers.confusion
    if not confusion:
        return ""
    return _confusions(confusion, answers) + _classes(class_figures(confusion))


def label_section(answers: Answers) -> str:
    """Precision, recall and F1 of each of independent labels, as HTML.

    Args:
        answers: labelled ones.
    """
    return _classes(label_figures(answers.label_sets("label"), answers.label_sets("prediction")), "Labels")


def label_figures(truths: Sequence[frozenset[str]], predictions: Sequence[frozenset[str]]) -> dict[str, ClassFigures]:
    """Figures of every label that a row has or was predicted to have; 0 where there is nothing to divide by."""
    true = Counter(name for names in truths for name in names)
    predicted = Counter(name for names in predictions for name in names)
    both = Counter(name for one, other in zip(truths, predictions, strict=True) for name in one & other)
    return {name: _figures(both[name], predicted[name], true[name]) for name in sorted(true | predicted)}


def class_figures(confusion: Pairs) -> dict[str, ClassFigures]:
    """Figures of every class, in the order of the table; 0 where there is nothing to divide by."""
    names = _names(confusion)
    true: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    for (one, other), rows in confusion.items():
        true[one] += rows
        predicted[other] += rows
    return {name: _figures(confusion[name, name], predicted[name], true[name]) for name in names}


def _figures(right: int, predicted: int, true: int) -> ClassFigures:
    precision, recall = right / max(predicted, 1), right / max(true, 1)
    return ClassFigures(precision, recall, 2 * right / max(predicted + true, 1), true)


def _names(confusion: Pairs) -> list[str]:
    return list(dict.fromkeys(name for pair in confusion for name in pair))


def _classes(found: Mapping[str, ClassFigures], title: str = "Classes") -> str:
    ordered = sorted(found.items(), key=lambda item: -item[1].rows)
    told = f"The {_MOST_CLASSES:,} most frequent of {len(ordered):,} classes." if len(ordered) > _MOST_CLASSES else ""
    rows = [[name, *figures] for name, figures in ordered[:_MOST_CLASSES]]
    name = "label" if title == "Labels" else "class"
    table = html.table([name, "precision", "recall", "F1", "rows"], rows)
    return html.section(title, html.paragraph(told), table, level=3)


def _confusions(confusion: Pairs, answers: Answers) -> str:
    names = sorted(_names(confusion))
    rows = sum(confusion.values())
    right = sum(count for (true, predicted), count in confusion.items() if true == predicted)
    told = f"{right:,} of {rows:,} rows are right. "
    wrong = [(pair, count) for pair, count in confusion.most_common() if pair[0] != pair[1]][:_MOST_CONFUSED]
    parts = []
    if len(names) <= MOST_IN_A_HEAT_MAP:
        counts = np.array([[confusion[true, predicted] for predicted in names] for true in names], dtype=np.float64)
        told += "Each line of the matrix is a true class; its cells are coloured by their share of the line."
        name = f"confusion{answers.name and '-'}{plain(answers.name)}"
        parts.append(charts.heat_map(name, "rows by true and predicted class", counts, names, names))
    table = html.table(["true", "predicted", "rows"], [[*pair, count] for pair, count in wrong]) if wrong else ""
    return html.section(
        "Confusion matrix", html.paragraph(told), *parts, html.section("Most confused", table, level=4), level=3
    )


def plain(name: str) -> str:
    """A name that can be an id in HTML."""
    return "".join(letter if letter.isascii() and letter.isalnum() else f"-{ord(letter):x}" for letter in name)
