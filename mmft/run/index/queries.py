"""What is searched for: texts and images, as a split of rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmft.config.from_python import is_table
from mmft.config.paths import IMAGES
from mmft.config.schema.data import ColumnsConfig, DataConfig, names_of
from mmft.config.wording import did_you_mean, listed
from mmft.data.splitting.splits import Split, open_table, whole
from mmft.data.table import Table
from mmft.errors import UserError
from mmft.files import located

log = logging.getLogger(__name__)


def columns_of_queries(data: DataConfig) -> ColumnsConfig:
    """The columns of queries: those of the rows, or `image` and `text` where the rows have none."""
    own = data.columns
    return ColumnsConfig(image=own.image or "image", text=own.text or "text", id=own.id)


def given_queries(query: Any, data: DataConfig, root: Path) -> Split:
    """Queries given in Python.

    Args:
        query: a text; an image, as a path, encoded bytes, a Pillow image, an array or a tensor; a mapping with `image`,
            `text` or both, also by the names of the run's columns; a list of any of these; or a table, as for
            `LoadedModel.predict`.
        data: of the rows.
        root: base folder of relative image paths.

    Raises:
        UserError: a query has the ending of an image's path, and there is no such file; or a column that is not read.
    """
    columns = columns_of_queries(data)
    if isinstance(query, list | tuple):
        rows: Any = [_row(one, columns, root) for one in query]
    elif is_table(query):
        rows = query
    else:
        rows = [_row(query, columns, root)]
    return whole(Table.from_rows(rows, columns, root, optional=("id", "image", "text")))


def read_queries(file: str, data: DataConfig) -> Split:
    """The queries of a table file, which has a column of images, of texts, or both.

    Raises:
        UserError: the file is unusable.
    """
    columns = columns_of_queries(data)
    config = replace(data, columns=columns, root=None)
    table = open_table(config, "path", file, columns=columns, optional=("id", "image", "text"))
    rows = range(len(table))
    images, texts = ([of(row) is not None for row in rows] for of in (table.image, table.text))
    empty = [row for row in rows if not images[row] and not texts[row]]
    if len(empty) == len(table):
        raise UserError(
            f"queries={file}: there is no image in a column {columns.image} and no text in a column {columns.text}. "
            "Type data.columns.image=COLUMN or data.columns.text=COLUMN"
        )
    for role, given, there in (("image", columns.image, images), ("text", columns.text, texts)):
        if empty and not any(there):
            log.warning(
                "queries=%s: %d rows have neither an image nor a text, and no row has the %s that would be in a column "
                "%s. data.columns.%s=COLUMN names another",
                *(file, len(empty), role, given, role),
            )
    return whole(table)


def _row(one: Any, columns: ColumnsConfig, root: Path) -> Mapping[Any, Any]:
    image, text = columns.image or "", names_of(columns.text)[0]
    if isinstance(one, Mapping):
        renamed = {"image": image, "text": text}
        known = {image, *names_of(columns.text), *names_of(columns.id)}
        row = {name if name in known else renamed.get(name, name): value for name, value in one.items()}
        if unknown := [name for name in row if name not in known]:
            near = did_you_mean(str(unknown[0]), known)
            raise UserError(f"query: no such column: {unknown[0]}.{near} There are image and text, or {listed(known)}")
        return row
    if not isinstance(one, str):
        return {image: str(one) if isinstance(one, Path) else one}
    if not one.lower().endswith(IMAGES):
        return {text: one}
    if not (path := located(one, root)).is_file():
        raise UserError(f"query={one}: there is no such image file. Type the path of an image, or a text")
    return {image: str(path.absolute())}
