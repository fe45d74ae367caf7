"""Who gets whose image or text."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mmft.data.exchange import exchange

NAMES = [f"row{n}" for n in range(60)]


def test_different_contents_go_round_in_one_circle() -> None:
    given = exchange(NAMES, NAMES, 0, "texts")
    at, seen = 0, []
    for _ in NAMES:
        seen.append(at)
        at = int(given[at])
    assert sorted(seen) == list(range(len(NAMES)))


@pytest.mark.parametrize("sizes", [[30, 20, 10], [31, 29], [5] * 12, [45, 10, 5], [60], [2, 1] * 20])
def test_as_few_as_possible_keep_what_they_had(sizes: list[int]) -> None:
    contents = [f"content{n}" for n, size in enumerate(sizes) for _ in range(size)]
    given = exchange(NAMES, contents, 3, "texts")
    assert sorted(given) == list(range(len(NAMES)))
    kept = [content for content, whose in zip(contents, given, strict=True) if content == contents[whose]]
    largest = Counter(contents).most_common(1)[0]
    assert len(kept) == max(0, 2 * largest[1] - len(NAMES))
    assert set(kept) <= {largest[0]}


def test_neither_the_tables_order_nor_chance_decides() -> None:
    given = exchange(NAMES, NAMES, 0, "texts")
    assert np.array_equal(given, exchange(NAMES, NAMES, 0, "texts"))
    backwards = exchange(NAMES[::-1], NAMES[::-1], 0, "texts")
    assert np.array_equal(len(NAMES) - 1 - backwards[::-1], given)
    assert not np.array_equal(given, exchange(NAMES, NAMES, 1, "texts"))
    assert not np.array_equal(given, exchange(NAMES, NAMES, 0, "images"))
    assert len(exchange([], [], 0, "texts")) == 0
    assert exchange(["alone"], ["x"], 0, "texts").tolist() == [0]
