"""Rows of a run that its page offers as examples."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageOps

from mmft.config.paths import tables_of
from mmft.config.schema.data import DataConfig
from mmft.config.schema.root import TrainConfig
from mmft.data.images.image import background_colour, read_file
from mmft.data.images.mending import BadImage
from mmft.data.images.pixels import to_rgb
from mmft.data.passthrough import PassthroughColumns
from mmft.data.splitting.names import splits_to_show
from mmft.data.splitting.splits import Split, load_splits, open_table
from mmft.data.spread import spread_evenly
from mmft.errors import UserError
from mmft.tasks.labels import text_of

log = logging.getLogger(__name__)
_SHOWN = ("PNG", "JPEG", "GIF", "WEBP")  # what every browser shows


class Example(NamedTuple):
    """A row of the run's table.

    Attributes:
        row: its number.
        id: its id.
        image: a file; None if it has none.
        texts: of its other columns, empty if missing.
    """

    row: int
    id: str
    image: Path | None
    texts: tuple[str, ...]


def examples_of(config: TrainConfig, texts: Sequence[str], count: int, folder: Path) -> list[Example]:
    """Rows spread evenly over the run's test split, or validation split; tells why there are none.

    Args:
        config: of the run, with absolute paths.
        texts: columns besides the image's.
        count: how many.
        folder: where their images are written.
    """
    if not count:
        return []
    try:
        split, files = _rows(config)
        table = open_table(config.data, "path", files, optional=("id",), keep=texts)
        at = spread_evenly(len(split), count)
        background = background_colour(config.data)
        return list(_read(split, table.passthrough, texts, split.rows[at].tolist(), background, folder))
    except UserError as error:
        log.warning("the page has no examples: %s", error)
        return []


def _rows(config: TrainConfig) -> tuple[Split, Any]:
    """The split, and the files of its table."""
    data: DataConfig = config.data
    splits = load_splits(data, config.seed)
    names = splits_to_show(splits)
    if not names:
        raise UserError("the run has neither test nor validation rows")
    files = data.path or tables_of(data).get(f"data.{names[0].replace('/', '.')}", data.train)
    return splits[names[0]], files


def _read(
    split: Split,
    kept: PassthroughColumns,
    texts: Sequence[str],
    rows: list[int],
    background: tuple[int, ...],
    folder: Path,
) -> Iterator[Example]:
    table = split.table
    for row in rows:
        if row in table.bad:
            continue
        try:
            image = _written(table.image(row), folder / f"row{row}", background)
        except (BadImage, OSError, ValueError):
            continue
        values = kept.row(row)
        yield Example(row, table.id(row), image, tuple(_text(values[name]) for name in texts))


def _written(source: str | bytes | None, stem: Path, background: tuple[int, ...]) -> Path | None:
    """The image as a file that a browser shows: its own bytes, or its pixels over a background."""
    if source is None:
        return None
    data = source if isinstance(source, bytes) else read_file(source)
    with Image.open(io.BytesIO(data)) as image:
        if image.format in _SHOWN:
            path = stem.with_suffix(f".{image.format.lower()}")
            path.write_bytes(data)
        else:
            path = stem.with_suffix(".png")
            to_rgb(ImageOps.exif_transpose(image), background).save(path)
    return path


def _text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else text_of(value)
