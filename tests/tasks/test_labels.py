"""Names of labels."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from mmft.tasks.classification import Classification
from mmft.tasks.labels import tell_alike
from mmft.tasks.multi_label import MultiLabel

ALIKE = [
    ({"Cat": 12, "cat ": 1, "dog": 2}, "'Cat' (12) and 'cat ' (1)"),
    ({"1": 3, "1.0": 1_000, "2": 5}, "'1' (3) and '1.0' (1,000)"),
    ({"T-Shirt": 1, "t_shirt": 2, "t shirt": 3}, "'T-Shirt' (1) and 't shirt' (3) and 't_shirt' (2)"),
    ({"STRASSE": 1, "straße": 2, "ｃａｔ": 3, "cat": 4}, "'STRASSE' (1) and 'straße' (2), 'cat' (4) and 'ｃａｔ' (3)"),  # noqa: RUF001 - wide letters
]
DIFFERENT = ["c", "c++", "c#", "1", "-1", "10", "1 2", "12", "nothing"]


@pytest.mark.parametrize(("counts", "told"), ALIKE)
def test_spellings_of_one_label_are_told(counts: dict[str, int], told: str, caplog: pytest.LogCaptureFixture) -> None:
    tell_alike(counts)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith(f"(training rows): {told}")


def test_labels_that_differ_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    tell_alike(dict.fromkeys(DIFFERENT, 1))
    assert not caplog.records


def test_classification_tells_of_its_labels(caplog: pytest.LogCaptureFixture) -> None:
    Classification().fit(["Cat", "cat", "dog", "Cat"])
    assert "'Cat' (2) and 'cat' (1)" in caplog.text


def test_multi_label_tells_of_its_labels(caplog: pytest.LogCaptureFixture) -> None:
    MultiLabel().fit([["Cat", "pet"], ["cat"], ["dog", "pet"], ["Cat", "dog"]])
    assert "'Cat' (2) and 'cat' (1)" in caplog.text


@pytest.mark.parametrize("task", [Classification, MultiLabel])
def test_labels_that_are_given_are_not_told(task: Any, caplog: pytest.LogCaptureFixture) -> None:
    task(labels=["Cat", "cat"]).fit(["Cat", "cat", "Cat"])
    assert "differ only" not in caplog.text
