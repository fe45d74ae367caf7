"""What is searched for: texts and images, as a split of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmft.config.paths import IMAGES
from mmft.config.schema.data import ColumnsConfig, DataConfig
from mmft.data.splitting.splits import Split, open_table, whole
from mmft.data.table import Table
from mmft.errors import UserError
from mmft.files import located


def columns_of_queries(data: DataConfig) -> ColumnsConfig:
    """The columns of queries: those of the rows, or `image` and `text` where the rows have none."""
    own = data.columns
    return ColumnsConfig(image=own.image or "image", text=own.text or "text", id=own.id)


def given_queries(query: Any, data: DataConfig, root: Path) -> Split:
    """Queries given in Python.

    Args:
        query: a text; an image, as a path, encoded bytes, a Pillow image, an array or a tensor; a mapping with columns
            of images and texts; a list of any of these; or a table, as for `LoadedModel.predict`.
        data: of the rows.
        root: base folder of relative image paths.

    Raises:
        UserError: a query has the ending of an image's path, and there is no such file.
    """
    columns = columns_of_queries(data)
    if isinstance(query, list | tuple):
        rows: Any = [_row(one, columns, root) for one in query]
    elif _is_table(query):
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
    if all(table.image(row) is None and table.text(row) is None for row in range(len(table))):
        raise UserError(
            f"queries={file}: there is no image in a column {columns.image} and no text in a column {columns.text}. "
            "Type data.columns.image=COLUMN or data.columns.text=COLUMN"
        )
    return whole(table)


def _is_table(query: Any) -> bool:
    return hasattr(query, "columns") or hasattr(query, "column_names")


def _row(one: Any, columns: ColumnsConfig, root: Path) -> Mapping[str, Any]:
    if isinstance(one, Mapping):
        return one
    image, text = columns.image or "", columns.text if isinstance(columns.text, str) else (columns.text or [""])[0]
    if not isinstance(one, str):
        return {image: str(one) if isinstance(one, Path) else one}
    if not one.lower().endswith(IMAGES):
        return {text: one}
    if not (path := located(one, root)).is_file():
        raise UserError(f"query={one}: there is no such image file. Type the path of an image, or a text")
    return {image: str(path.absolute())}
