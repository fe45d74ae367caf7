"""The page of an explained row: whatever is in an id or a text, it is drawn, and stays a page."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmft.models.attribution import Attribution
from mmft.reports.explain.page import draw
from mmft.reports.explain.rows import Explained
from mmft.reports.explain.words import Word


def darkest(page: Image.Image, columns: slice) -> int:
    """Of some of its columns, from 0 to 255."""
    return int(np.array(page.convert("L"))[:, columns].min())


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2029", "\t", "\x00", "\x1c"])
def test_an_id_with_the_end_of_a_line(end: str) -> None:
    page = draw([f"id a{end}b", "prediction x"], [], [Word(f"a{end}b", 0, 0.5)])
    assert page.size == draw(["id a b", "prediction x"], [], [Word("a b", 0, 0.5)]).size


def test_a_word_that_is_wider_than_the_page_is_cut() -> None:
    page = draw(["id " + "wide" * 10_000], [], [Word("wide" * 10_000, 0, 1.0), Word("next", 40_001, 0.1)])
    assert darkest(page, slice(-8, None)) == 255
    assert page.height < 200


def test_a_text_of_which_most_is_cut_off_says_how_many_words() -> None:
    read = [Word("read", 5 * at, 0.1) for at in range(30)]
    pages = [draw(["id 1"], [], read + [Word("rest", 150, None)] * count) for count in (22, 100_000)]
    assert pages[0].height == pages[1].height
    assert np.any(np.array(pages[0]) != np.array(pages[1]))  # the number
    few = draw(["id 1"], [], read + [Word("rest", 150, None)] * 3)
    assert few.height < pages[0].height


def test_a_page_says_what_is_not_attributed() -> None:
    def page(added: float) -> Image.Image:
        answer = {"row": 0, "id": "0", "prediction": "a", "score": 0.5}
        found = Attribution(None, torch.tensor([added]), value=1.0, baseline=0.0)
        row = Explained(answer=answer, name="a", of="", found=found, images=[], words=[])
        return row.page()

    assert page(0.8).height > page(0.99).height  # by a line
