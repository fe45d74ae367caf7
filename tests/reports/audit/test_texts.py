"""Similar texts: what MinHash finds is what comparing all pairs finds."""

from __future__ import annotations

import random

import pytest

from mmft.reports.audit.texts import likeness, nearest_texts, normalised


@pytest.mark.parametrize(
    ("text", "expected"),
    [("  Red,  APPLE! ", "red apple"), ("ﬁne_1", "fine 1"), (None, ""), ("...", ""), ("Straße", "strasse")],
)
def test_what_is_compared(text: str | None, expected: str) -> None:
    assert normalised(text) == expected


def made(count: int, seed: int) -> list[str]:
    """Titles that often share most of their words, as templates make them."""
    draw = random.Random(seed)
    words = ["".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.randint(3, 8))) for _ in range(60)]
    stems = [" ".join(draw.sample(words, draw.randint(3, 7))) for _ in range(count // 4)]
    return [f"{draw.choice(stems)} {draw.choice(words)}" for _ in range(count)]


def test_all_similar_pairs_are_found() -> None:
    texts = made(600, seed=0)
    mine, others = texts[:200], texts[200:]
    found = nearest_texts(mine, others, 0.8)
    known = set(others)
    expected = {}
    for at, text in enumerate(mine):
        best = max(likeness(text, other) for other in others)
        if text not in known and best >= 0.8:
            expected[at] = best
    assert len(expected) > 20
    assert {at: score for at, _, score in found} == pytest.approx(expected)
    assert all(likeness(mine[at], others[other]) == score for at, other, score in found)


def test_same_and_empty_texts_are_no_similar_ones() -> None:
    assert nearest_texts(["red apple", "", "red apples"], ["red apple", ""], 0.5) == [
        (2, 0, likeness("red apples", "red apple"))
    ]
    assert nearest_texts([], [], 0.8) == []
