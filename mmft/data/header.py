"""The column names of tables, checked without reading their rows and without torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from mmft.config.paths import table_files
from mmft.config.schema.data import ColumnsConfig, ReadingConfig
from mmft.data.roles import check_names, roles
from mmft.data.sources.formats import read_table_file
from mmft.errors import UserError

_HEADED = (".csv", ".tsv", ".txt", ".parquet")
_SMALL = 1 << 24  # bytes; other formats have no header, so of large files the rows are not read twice


class _Checked(Exception):
    """The names are known: the rows need not be read."""


def wrong_columns(
    given: str | list[str],
    columns: ColumnsConfig,
    key: str,
    reading: ReadingConfig,
    optional: Collection[str] = (),
) -> list[str]:
    """Messages about columns that tables lack or have twice, and about files that cannot be read.

    Args:
        given: files, patterns and folders.
        columns: the roles of columns.
        key: the config key that named the files.
        reading: how text files are read.
        optional: fields of `columns` whose column may be absent.
    """
    found = (_wrong(file, columns, f"{key}={file}", reading, optional) for file in table_files(given))
    return list(dict.fromkeys(message for messages in found for message in messages))


def _wrong(
    path: Path, columns: ColumnsConfig, where: str, reading: ReadingConfig, optional: Collection[str]
) -> list[str]:
    if path.suffix.lower() not in _HEADED and path.stat().st_size > _SMALL:
        return []

    def check(names: Sequence[str]) -> None:
        check_names(names, columns, optional, where)
        raise _Checked

    try:
        read_table_file(path, set(roles(columns)), check, where, reading)
    except _Checked:
        return []
    except UserError as error:
        return error.messages
    return []
