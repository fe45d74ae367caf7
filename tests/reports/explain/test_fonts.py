"""Fonts: each text in one that has its signs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from mmft.reports.explain import fonts
from mmft.reports.explain.page import draw


class Alphabet:
    """A font of some signs; draws a box for all others."""

    def __init__(self, signs: str) -> None:
        self.signs = signs

    def getmask(self, sign: str) -> Any:
        return Image.new("L", (3, 4), ord(sign) % 200 if sign in self.signs else 255).im


def test_the_first_font_with_all_signs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    latin, russian, all_of_them = Alphabet("ab "), Alphabet("жд "), Alphabet("abжд ")
    monkeypatch.setattr(fonts, "_fonts", lambda _: [latin, russian, all_of_them])
    chosen = [fonts.font_for(text, 15) for text in ("a b", "ж", "aж", "猫", "")]
    assert chosen == [latin, russian, all_of_them, latin, latin]
    assert fonts.lacks(["a", "猫"], 15)
    assert not fonts.lacks(["a", "жb"], 15)


def test_pillows_own_font_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    only = ImageFont.load_default(15)
    monkeypatch.setattr(fonts, "_fonts", lambda _: [only])
    assert not fonts.lacks(["plain text, 1.5"], 15)
    assert fonts.lacks(["жук"], 15)


def test_a_page_says_that_signs_are_drawn_as_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    only = ImageFont.load_default(15)
    monkeypatch.setattr(fonts, "_fonts", lambda _: [only])
    plain, boxes = draw(["beetle"], [], []), draw(["жук"], [], [])
    assert boxes.height > plain.height  # by a line
    assert np.array(boxes).min() < 100
