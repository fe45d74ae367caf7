"""Shows rows of a table as HTML: a thumbnail, what is said of the row, its text, its place."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape

from PIL import Image

from mmft.config.schema.data import DataConfig
from mmft.data.bad_rows import row_named
from mmft.data.images.image import ImageReader, background_of
from mmft.data.images.mending import BadImage
from mmft.data.images.squares import Resize, squaring
from mmft.data.splitting.splits import Split
from mmft.reports.explain.page import Floats, heat
from mmft.reports.page.html import MOST_BYTES

_SIDE = 160  # pixels of a thumbnail, of which a JPEG has about 5 kB
_TEXT = 300  # characters of a text
_MOST_IMAGES = MOST_BYTES * 3 // 5


class Thumbnails:
    """Images as `data:` addresses, up to a size of all together.

    Args:
        config: how images are read.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._reader = cache(self._reader_of)
        self._bytes = 0

    def address(self, source: str | bytes | None, side: int) -> tuple[str | None, str]:
        """An image, given by its path or its bytes, and why it cannot be shown; neither without one.

        Args:
            source: the image.
            side: pixels of its longer side.
        """
        if source is None:
            return None, ""
        if self._bytes > _MOST_IMAGES:
            return None, "(no room for more images)"
        try:
            pixels = self._reader(side, "pad")(source)
        except BadImage as error:
            return None, str(error)
        return self._address(Image.fromarray(pixels.permute(1, 2, 0).numpy())), ""

    def heat_map(self, source: str | bytes | None, cells: Floats) -> str:
        """An image as the model sees it, under a map (K, K) of what its parts contribute, as HTML."""
        if source is None or self._bytes > _MOST_IMAGES:
            return ""
        try:
            pixels = self._reader(_SIDE, squaring(self._config).resize)(source)
        except BadImage as error:
            return f"<div>{escape(str(error))}</div>"
        drawn = heat(Image.fromarray(pixels.permute(1, 2, 0).numpy()), cells)
        return f'<img alt="" loading="lazy" src="{self._address(drawn)}">'

    def _address(self, image: Image.Image) -> str:
        """The image as a `data:` address."""
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=80)
        data = base64.b64encode(stream.getvalue()).decode()
        self._bytes += len(data)
        return f"data:image/jpeg;base64,{data}"

    def show(self, source: str | bytes | None) -> str:
        """A small image as HTML; why it cannot be shown; nothing without one."""
        image, problem = self.address(source, _SIDE)
        if image is not None:
            return f'<img alt="" loading="lazy" src="{image}">'
        return f"<div>{escape(problem)}</div>" if problem else ""

    def _reader_of(self, side: int, resize: Resize) -> ImageReader:
        return ImageReader(side, resize, background_of(self._config), self._config.max_pixels)


def row_card(image: str, said: Sequence[str], text: str, place: str) -> str:
    """A row: its image (HTML), lines below it (empty ones are left out), its text, where it is."""
    lines = [f'<div class="label">{escape(shortened(line))}</div>' for line in said if line]
    parts = [image, *lines, f"<div>{escape(shortened(text))}</div>"]
    return f'<div class="row">{"".join(parts)}<div class="place">{escape(place)}</div></div>'


class RowCards:
    """Rows of splits as HTML.

    Args:
        splits: by name.
        config: how images are read.
    """

    def __init__(self, splits: Mapping[str, Split], config: DataConfig) -> None:
        self.splits = splits
        self._thumbnails = Thumbnails(config)
        self._thumbnail = cache(self._thumbnail_of)

    def card(self, split: str, row: int, name: str, said: Sequence[str] = ()) -> str:
        """One row.

        Args:
            split: its split.
            row: its number.
            name: its id.
            said: lines below its image; empty ones are left out.
        """
        table = self.splits[split].table
        place = f"{split} {row_named(row, name)}"
        return row_card(self._thumbnail(split, row), said, table.text(row) or "", place)

    def image(self, split: str, row: int, side: int) -> tuple[str | None, str]:
        """A row's image as a `data:` address, and why there is none; neither of a row that has no image.

        Args:
            split: its split.
            row: its number.
            side: pixels of the image's longer side.
        """
        return self._thumbnails.address(self.splits[split].table.image(row), side)

    def heat_map(self, split: str, row: int, cells: Floats) -> str:
        """A row's image as the model sees it, under a map of what its parts contribute, as HTML.

        Args:
            split: its split.
            row: its number.
            cells: (K, K) the contributions.
        """
        return self._thumbnails.heat_map(self.splits[split].table.image(row), cells)

    def _thumbnail_of(self, split: str, row: int) -> str:
        return self._thumbnails.show(self.splits[split].table.image(row))


def shortened(text: str) -> str:
    """The text, its end cut off if it is long."""
    return text if len(text) <= _TEXT else text[:_TEXT] + "…"
