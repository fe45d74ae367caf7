"""Rows given in Python: as a table, and predictions in the type of the rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmft.config.schema.data import ColumnsConfig, DataConfig, names_of
from mmft.data.roles import roles
from mmft.data.sources.memory import read_rows
from mmft.data.splitting.splits import inputs_only
from mmft.data.table import Table
from mmft.errors import UserError

log = logging.getLogger(__name__)
_NEAR = 0.7  # of `difflib`: `img` for `image`
_CONVERSATIONS = "messages"
_MODALITIES = {"image": "images", "text": "texts", "messages": "conversations"}


def table_from(rows: Any, config: DataConfig, root: Path, with_labels: bool = False) -> Table:
    """The rows with the run's image, text and id columns.

    Without an id column rows are identified by number; without the image or the text column they lack that modality,
    which is logged.

    Args:
        rows: as for `LoadedModel.predict`.
        config: the run's.
        root: base folder of relative image paths.
        with_labels: whether labels are read, too, if the rows have them.

    Raises:
        UserError: there is neither an image nor a text column, one is wholly unusable, or a name is misspelt.
    """
    if isinstance(rows, Iterator):  # they are read twice
        rows = rows.read_all() if hasattr(rows, "read_all") else list(rows)
    _check_names(rows, config.columns)
    columns = _without_absent(inputs_only(config.columns, with_labels), rows)
    return Table.from_rows(rows, columns, root, optional=("id", "label"))


def with_conversations(columns: ColumnsConfig, rows: Any) -> ColumnsConfig:
    """`columns` of a run that writes texts, for rows that have conversations (`messages`) in place of its texts."""
    names: list[str] = []
    if columns.messages is None and not isinstance(rows, Iterator):
        read_rows(rows, (), names.extend)
    if _CONVERSATIONS not in names or not {*names_of(columns.text)}.isdisjoint(names):
        return columns
    log.info("the rows have conversations (%s), which are read in place of texts", _CONVERSATIONS)
    return replace(columns, text=None, messages=_CONVERSATIONS)


def _check_names(rows: Any, columns: ColumnsConfig) -> None:
    """Checks that nothing has, in the place of an image or a text, a name that is nearly its column's.

    Raises:
        UserError: one has, and would be a row without.
    """
    named = [name for name, found in roles(columns).items() if set(found) & set(_MODALITIES)]
    first: dict[tuple[Any, ...], str] = {}  # of the rows that have the same names
    if isinstance(rows, list):
        for number, row in enumerate(rows):
            if isinstance(row, Mapping):
                first.setdefault(tuple(row), f"row {number} has")
    else:
        columns_of_all: list[str] = []
        read_rows(rows, (), columns_of_all.extend)
        first[tuple(columns_of_all)] = "they have"
    for names, where in first.items():
        others = [str(name) for name in names if name not in named]
        for name in named:
            if name not in names and (near := get_close_matches(name, others, 1, _NEAR)):
                meant = f"Did you mean {name!r}? For none, give {name!r} as None"
                raise UserError(f"rows: {where} {near[0]!r}, but no {name!r}. {meant}")


def _without_absent(columns: ColumnsConfig, rows: Any) -> ColumnsConfig:
    """`columns` without the modality of which the rows have no column, which is reported."""
    names: list[str] = []
    read_rows(rows, (), names.extend)
    every = {role: {name for name, found in roles(columns).items() if role in found} for role in _MODALITIES}
    needed = {role: own for role, own in every.items() if own}
    absent = [role for role, own in needed.items() if own.isdisjoint(names)]
    if not names or len(absent) != 1 or len(needed) < 2:  # the table's own error lists the columns
        return columns
    named = getattr(columns, absent[0])
    log.warning("the rows have no column %s: they are read without %s", named, _MODALITIES[absent[0]])
    return replace(columns, **{absent[0]: None})


def as_given(rows: Any, answers: list[dict[str, Any]], columns: list[str]) -> Any:
    """Predictions in the type of `rows`: a pandas DataFrame with their index, an Arrow table, else a list of dicts."""
    if isinstance(rows, list):
        return answers
    module = type(rows).__module__.partition(".")[0]
    named = {name: [answer[name] for answer in answers] for name in columns}
    if module == "pandas":
        import pandas as pd

        return pd.DataFrame(named, index=rows.index if hasattr(rows, "columns") else [rows.name])  # or of one row
    if module == "polars":
        import polars as pl  # type: ignore[import-not-found]

        return pl.DataFrame(named)
    if module == "pyarrow":
        import pyarrow as pa

        return pa.table(named)
    return answers
