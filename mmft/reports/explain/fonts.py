"""Chooses the font of a text: the first on this machine with all its characters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from PIL import ImageFont

NAMES = (
    "DejaVuSans.ttf",  # most alphabets
    "Arial.ttf",
    # Chinese, Japanese and Korean: Linux, Windows, macOS
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-zenhei.ttc",
    "msyh.ttc",
    "malgun.ttf",
    "Arial Unicode.ttf",
    "Hiragino Sans GB.ttc",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "NotoEmoji-Regular.ttf",
)
"""Searched for in Pillow's font folders, in this order; Pillow's own font (Latin only) comes last."""
_NO_SIGN = "\U0010ffff"  # never a character: it is drawn as every character that a font lacks
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class _Drawn(NamedTuple):
    """A character as pixels."""

    size: tuple[int, int]
    ink: bytes


def font_for(text: str, size: int) -> Font:
    """The first font with every character of a text, else the first font."""
    fonts = _fonts(size)
    return next((font for font in fonts if all(_has(font, sign) for sign in set(text))), fonts[0])


def lacks(texts: Iterable[str], size: int) -> bool:
    """Whether one of the texts has a character that its font lacks."""
    return any(not _has(font_for(text, size), sign) for text in texts for sign in set(text))


@cache
def _fonts(size: int) -> list[Font]:
    found: list[Font] = []
    for name in NAMES:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return [*found, ImageFont.load_default(size)]


@cache
def _has(font: Font, sign: str) -> bool:
    return _drawn(font, sign) != _drawn(font, _NO_SIGN)


@cache
def _drawn(font: Font, sign: str) -> _Drawn:
    mask = font.getmask(sign)
    return _Drawn(mask.size, bytes(mask))
