"""Draws a row's explanation with Pillow: the image, its heat map, the shaded words, the prediction.

Red supports what is explained, blue opposes it. The map and the words have a scale each, since an image has many places
and a text few words; the total of each is shown too.

Legend: H W image height and width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from mmft.reports.explain.fonts import font_for, lacks
from mmft.reports.explain.numbers import signed
from mmft.reports.explain.words import Word

_SIDE, _MARGIN, _LINE = 336, 16, 22  # pixels
_WIDTH = 2 * _SIDE + 3 * _MARGIN
_RED, _BLUE, _INK, _PALE = (200, 30, 30), (30, 70, 200), (20, 20, 20), (150, 150, 150)
_LINE_ENDS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # Pillow cannot measure lines with some of these
_LONGEST = 300  # characters to measure; more than a line of the page holds
_SIZE, _SMALL = 15, 11  # font sizes
_BOXES = "boxes are characters that no font on this machine has; install fonts-noto-cjk"
_MOST_CUT_OFF = 20  # truncated words that are shown: enough to see where the model stopped
Floats = npt.NDArray[np.float64]


class Heat(NamedTuple):
    """An image, and what its parts contribute."""

    pixels: npt.NDArray[np.uint8]  # (H, W, 3) as the model sees it
    cells: Tensor  # (K, K)

    def drawn(self) -> tuple[Image.Image, Image.Image]:
        """The image in the page's size, and its map."""
        plain = Image.fromarray(self.pixels)
        scale = _SIDE / max(plain.size)
        size = [max(1, round(scale * side)) for side in plain.size]
        plain = plain.resize((size[0], size[1]), Image.Resampling.BICUBIC)
        return plain, heat(plain, self.cells.numpy())


def draw(lines: Sequence[str], images: Sequence[Heat], words: list[Word]) -> Image.Image:
    """Draws the page.

    Args:
        lines: text at the top.
        images: the row's, drawn one below the other.
        words: the text's; empty without a text.
    """
    words, lines = _shown(words), [_fitting(line) for line in lines]
    if lacks([*lines, *(word.text for word in words)], _SIZE):
        lines.append(_BOXES)
    largest = max((abs(word.weight or 0.0) for word in words), default=0.0)
    placed, bottom = _placed(words, largest)
    top = _MARGIN + _LINE * len(lines) + _MARGIN // 2
    drawn = [image.drawn() for image in images]
    below = top + (sum(plain.height + _MARGIN for plain, _ in drawn) or _LINE)
    page = Image.new("RGB", (_WIDTH, below + bottom + _MARGIN), "white")
    pen = ImageDraw.Draw(page)
    for number, told in enumerate(lines):
        _say(pen, (_MARGIN, _MARGIN + number * _LINE), told)
    if not drawn:
        _say(pen, (_MARGIN, top), "(no image)", _PALE)
    for both in drawn:
        for left, one in zip((_MARGIN, 2 * _MARGIN + _SIDE), both, strict=True):
            page.paste(one, (left, top))
            pen.rectangle([left - 1, top - 1, left + one.width, top + one.height], outline=_PALE)
        top += both[0].height + _MARGIN
    if not words:
        _say(pen, (_MARGIN, below), "(no text)", _PALE)
    for word, (left, line) in zip(words, placed, strict=True):
        _write(pen, word, (left, below + line), largest)
    return page


def _fitting(text: str, room: int = _WIDTH - 2 * _MARGIN) -> str:
    """The text on one line, truncated if it is too wide."""
    line = _LINE_ENDS.sub(" ", text)
    if len(line) > _LONGEST:
        line = line[:_LONGEST] + "…"
    while _length(line) > room:
        line = line[:-2].rstrip("…") + "…"
    return line


def _shown(words: list[Word]) -> list[Word]:
    """The words, each no wider than the page; of truncated ones the first few, and a count of the rest."""
    read = [word for word in words if word.weight is not None]
    cut_off = [word for word in words if word.weight is None]
    more = len(cut_off) - _MOST_CUT_OFF
    if more > 1:
        cut_off = cut_off[:_MOST_CUT_OFF]
        cut_off.append(Word(f"… and {more:,} more words", cut_off[-1].start, None))
    return [word._replace(text=_fitting(word.text, _WIDTH - 2 * _MARGIN - 8)) for word in read + cut_off]


def heat(plain: Image.Image, cells: Floats) -> Image.Image:
    """The image in pale grey under red (supports) and blue (opposes), with the map's intensity.

    Args:
        plain: the image as the model sees it, in any size.
        cells: (K, K) what each part of it contributes.
    """
    strength = np.array(Image.fromarray(cells.astype(np.float32)).resize(plain.size, Image.Resampling.BICUBIC))
    strength = (strength / max(float(np.abs(strength).max()), 1e-12))[..., None]
    grey = 255 - 0.5 * (255 - np.array(plain.convert("L"), dtype=np.float64)[..., None])
    colour = np.where(strength > 0, np.array(_RED), np.array(_BLUE))
    opaque = 0.75 * np.abs(strength)
    return Image.fromarray((grey * (1 - opaque) + colour * opaque).astype(np.uint8))


def _placed(words: list[Word], largest: float) -> tuple[list[tuple[int, int]], int]:
    """Where each word starts, line by line, and where the last line ends."""
    left, top, places = _MARGIN, 0, []
    for word in words:
        width = _width(word, largest)
        if left + width > _WIDTH - _MARGIN and left > _MARGIN:
            left, top = _MARGIN, top + 2 * _LINE
        places.append((left, top))
        left += width + 6
    return places, top + 2 * _LINE


def _width(word: Word, largest: float) -> int:
    return 8 + int(max(_length(word.text), _length(_number(word, largest), _SMALL)))


def _number(word: Word, largest: float) -> str:
    return "cut off" if word.weight is None else signed(word.weight, largest)


def _write(pen: ImageDraw.ImageDraw, word: Word, place: tuple[int, int], largest: float) -> None:
    """Draws a word on a background of its colour, with its weight below."""
    left, top = place
    share = 0.7 * abs(word.weight or 0.0) / max(largest, 1e-12)
    colour = _RED if (word.weight or 0.0) > 0 else _BLUE
    ground = tuple(int(255 * (1 - share) + part * share) for part in colour)
    pen.rectangle([left, top, left + _width(word, largest), top + _LINE], fill=ground)
    _say(pen, (left + 4, top + 2), word.text, _PALE if word.weight is None else _INK)
    _say(pen, (left + 4, top + _LINE + 2), _number(word, largest), _PALE, _SMALL)


def _say(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, ink: tuple[int, int, int] = _INK, size: int = _SIZE
) -> None:
    pen.text(place, text, fill=ink, font=font_for(text, size))


def _length(text: str, size: int = _SIZE) -> float:
    return font_for(text, size).getlength(text)
