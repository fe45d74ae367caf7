"""The precision of each class by people's marks of a sample."""

from __future__ import annotations

import numpy as np

from mmft.config.schema.task import ClassificationConfig, RegressionConfig
from mmft.reports.page.evidence import Answers
from mmft.reports.review.by_class import class_parts
from mmft.reports.review.consensus import Reviewed
from mmft.reports.review.sampling import draw


def test_intervals_hold_each_class_as_often_as_they_should() -> None:
    """Three classes of 1,200, 500 and 300 answers; people find labels of the second class wrong more often."""
    generator = np.random.default_rng(0)
    predicted = np.repeat(["cat", "dog", "owl"], [1_200, 500, 300])
    by_label = generator.random(2_000) < 0.8
    by_people = np.where(generator.random(2_000) < np.where(predicted == "dog", 0.3, 0.05), ~by_label, by_label)
    rows = [
        {"row": str(at), "prediction": name, "label": name if right else "cow"}
        for at, (name, right) in enumerate(zip(predicted.tolist(), by_label, strict=True))
    ]
    answers = Answers("", ClassificationConfig(), "test", rows)
    inside, estimates = [], []
    for _ in range(150):
        drawn = draw(answers.right, int(generator.integers(1 << 30)), 200)
        marked = [Reviewed(one.at, (), "right" if by_people[one.at] else "wrong", one.weight) for one in drawn]
        (part,) = class_parts(answers, marked, "")
        assert [line[0] for line in part.rows] == ["cat", "dog", "owl"]
        for name, labels, people, low, high, count, size in part.rows:
            own = predicted == name
            assert labels == by_label[own].mean()
            assert (count, size) == (sum(own[one.at] for one in drawn), own.sum())
            inside.append(low <= by_people[own].mean() <= high)
            estimates.append(people - by_people[own].mean())
    assert abs(np.mean(estimates)) < 0.01
    assert 0.92 <= np.mean(inside) <= 0.995


def test_a_class_of_which_a_kind_is_not_marked_has_no_figure() -> None:
    rows = [
        {"row": str(at), "prediction": name, "label": label}
        for at, (name, label) in enumerate([("cat", "cat"), ("cat", "dog"), ("dog", "dog"), ("dog", "dog")])
    ]
    answers = Answers("", ClassificationConfig(), "test", rows)
    marked = [Reviewed(at, (), mark, 1.0) for at, mark in ((0, "right"), (2, "wrong"), (3, "unsure"))]
    (part,) = class_parts(answers, marked, ": size")
    assert part.title == "Precision of each class: size"
    assert [line[:3] for line in part.rows] == [["dog", 1.0, 0.0]]
    assert "1 class has no figure" in part.sentences[1]
    assert part.sentences[1].endswith("was marked: cat.")


def test_numbers_have_no_classes() -> None:
    assert not class_parts(
        Answers("", RegressionConfig(), "test", [{"row": "0", "prediction": "1", "label": "1"}]), [], ""
    )
