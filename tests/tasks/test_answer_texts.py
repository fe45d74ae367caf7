"""How reference answers are read, and where generated texts are cut."""

from __future__ import annotations

from typing import Any

import pytest

from mmft.tasks.answer_texts import cut, references_of


@pytest.mark.parametrize(
    ("label", "answers"),
    [
        (" a cat ", ["a cat"]),
        (["a cat", " Cat"], ["a cat", "Cat"]),
        ('["a cat", "Cat", "d\\"og"]', ["a cat", "Cat", 'd"og']),
        (' ["a cat"] ', ["a cat"]),
        ("yes|no, maybe", ["yes|no, maybe"]),  # no separator is guessed
        (2.0, ["2"]),
        (False, ["False"]),
        ([1, 2.5], ["1", "2.5"]),
        ("[12, 30, 40, 50]", ["[12, 30, 40, 50]"]),  # a box
        ('[["a", "b"]]', ['[["a", "b"]]']),
        ("[a] or [b]", ["[a] or [b]"]),
        ('["a cat"', ['["a cat"']),
        ('{"color": "red"}', ['{"color": "red"}']),
    ],
)
def test_answers_of_a_row(label: Any, answers: list[str]) -> None:
    assert references_of(label) == answers


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (None, "^no answer$"),
        ("", "^no answer$"),
        ("  ", "^no answer$"),
        ([], "^no answer$"),
        ("[]", "^no answer$"),
        ([None], "^no answer$"),
        (["a", None], "^an empty answer in"),
        ('["a", " "]', "^an empty answer in"),
        ("['a cat', \"it's\"]", "a list written as Python does.*write it as JSON"),
    ],
)
def test_what_is_wrong_is_said(label: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        references_of(label)


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        (" Paris.\n\nQ: what", ["\n\n", "Q:"], "Paris."),
        ("Paris. Q: what\n\n", ["\n\n", "Q:"], "Paris."),  # the first in the text, not in the list
        ("Paris.", ["###"], "Paris."),
        ("Paris. ", [], "Paris."),
        ("### Paris", ["###"], ""),
    ],
)
def test_cut(text: str, stops: list[str], left: str) -> None:
    assert cut(text, stops) == left


def test_an_empty_stop_text() -> None:
    with pytest.raises(ValueError, match="an empty stop text"):
        cut("a", ["b", ""])
