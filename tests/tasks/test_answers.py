"""How answers are written alike, what each is worth, which are in the vocabulary."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from mmft.tasks.answers import answers_of, commonest, distinct, normalised, scores_of, vqa_score


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("Yes", "yes"),
        (" Yes. ", "yes"),
        ("a dog", "dog"),
        ("The man on the left", "man on left"),
        ("two", "2"),
        ("None", "0"),
        ("Ten of them", "10 of them"),
        ("eleven", "eleven"),  # number words end at ten
        ("dont know", "don't know"),
        ("cant", "can't"),
        ("couldntve", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("oclock", "o'clock"),
        ("well", "well"),  # a word of its own, and not we'll
        ("its", "its"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("red, white", "red white"),
        ("black/white", "black white"),
        ("t-shirt", "t shirt"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("U.S.A.", "usa"),
        ("50%", "50%"),
        ("$5", "$5"),
        ("is it?!", "is it"),
        ("new\n york", "new york"),
        ("A", "a"),  # nothing would be left
        ("the", "the"),
        ("?", "?"),
        ("", ""),
    ],
)
def test_answers_are_written_alike(given: str, written: str) -> None:
    assert normalised(given) == written
    assert normalised(written) == written


@pytest.mark.parametrize(
    ("annotators", "scores"),
    [
        (1, [0, 1]),
        (2, [0, 1 / 2, 1]),
        (3, [0, 1 / 3, 2 / 3, 1]),
        (4, [0, 1 / 4, 2 / 4, 3 / 4, 1]),
        (5, [0, 4 / 15, 8 / 15, 4 / 5, 1, 1]),
        (10, [0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1]),  # as the VQA evaluation has it
    ],
)
def test_what_an_answer_is_worth(annotators: int, scores: list[float]) -> None:
    assert [vqa_score(given, annotators) for given in range(annotators + 1)] == pytest.approx(scores, abs=1e-12)


@pytest.mark.parametrize("annotators", range(2, 13))
def test_it_is_the_mean_over_all_who_can_be_left_out(annotators: int) -> None:
    for given in range(annotators + 1):
        says = [at < given for at in range(annotators)]
        needed = min(3, annotators - 1)
        left = [min(sum(others) / needed, 1) for others in combinations(says, annotators - 1)]
        assert vqa_score(given, annotators) == pytest.approx(sum(left) / len(left), abs=1e-12)


def test_of_a_row() -> None:
    found = scores_of(["red", "blue", "red", "red", "red", "green", "green", "red", "red", "red"])
    assert list(found) == ["red", "green", "blue"]
    assert list(found.values()) == pytest.approx([1, 0.6, 0.3])


@pytest.mark.parametrize(
    ("label", "answers"),
    [
        ("a cat", ["cat"]),
        ("a cat|Dog |two", ["cat", "dog", "2"]),
        (["A cat", "cat."], ["cat", "cat"]),
        (2.0, ["2"]),
        (True, ["true"]),
        ([1, 1.0, "1"], ["1", "1", "1"]),
    ],
)
def test_a_cell_has_one_answer_for_each_annotator(label: Any, answers: list[str]) -> None:
    assert answers_of(label, "|", normalise=True) == answers


def test_as_they_stand() -> None:
    assert answers_of([" A cat", "a cat. "], "|", normalise=False) == ["A cat", "a cat."]
    assert answers_of("A cat;B|C", ";", normalise=False) == ["A cat", "B|C"]


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (None, "^no answer$"),
        ([], "^no answer$"),
        ("yes||no", r"an empty answer in 'yes\|\|no', split by task.separator='\|'"),
        (["yes", None], "an empty answer in"),
        (["yes", " "], "an empty answer in"),
        ("['yes', 'no']", "a list written as text.*Separate answers with.*task.separator"),
        ('["yes", "no"]', "Parquet or JSON Lines"),
    ],
)
def test_what_is_wrong_is_said(label: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        answers_of(label, "|", normalise=True)


def test_the_vocabulary_is_what_most_rows_have() -> None:
    rows = [["no", "10"], ["yes", "no"], ["yes", "no", "9"], ["b", "10"], ["a", "9"]]
    assert commonest(rows, None, 1) == ["no", "9", "10", "yes", "a", "b"]  # ties: numbers by value, then words
    assert commonest(reversed(rows), None, 1) == ["no", "9", "10", "yes", "a", "b"]
    assert commonest(rows, 3, 1) == ["no", "9", "10"]
    assert commonest(rows, None, 2) == ["no", "9", "10", "yes"]
    assert commonest(rows, None, 3) == ["no"]
    assert commonest(rows, None, 4) == []


def test_a_given_one_is_compared_as_answers_are() -> None:
    assert distinct(["Two", "The dog"], normalise=True) == ["2", "dog"]
    assert distinct(["Two", "The dog", "dog"], normalise=False) == ["Two", "The dog", "dog"]
    with pytest.raises(ValueError, match="'The dog' and 'dog' are the same answer, 'dog'"):
        distinct(["two", "The dog", "dog"], normalise=True)
