"""What Python gives a command: tables in files or in memory, columns, and a process that stays as it was."""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from mmft.config.from_python import is_table, overrides_of
from mmft.errors import UserError
from mmft.run.as_it_was import as_it_was

Overrides = Iterable[str] | Mapping[str, Any]


class Given:
    """What a function of Python was given, as overrides.

    Args:
        tables: by split; if only `train` is given, it has all rows.
        typed: all overrides but those that name the tables.
        folder: where tables in memory are written.
        image: the column of images.

    Attributes:
        typed: the same.
        has_rows: whether there are tables.
    """

    def __init__(self, tables: Mapping[str, Any], typed: list[str], folder: Path, image: str | None) -> None:
        from mmft.data.sources.rows_file import write_rows

        tables = _of_splits({split: table for split, table in tables.items() if table is not None})
        if tables and "train" not in tables:
            raise UserError("rows: there are none to train on, only some to validate or to test on")
        self.typed, self.has_rows = typed, bool(tables)
        self._written: list[Path] = []
        self._named: dict[str, Any] = {}
        alone, image = len(tables) == 1, image or _column_of_images(typed)
        for split, table in tables.items():
            where = table
            if not isinstance(table, (str, PathLike)):
                where = folder / ("rows.parquet" if alone else f"{split}.parquet")
                write_rows(table, where, () if image is None else (image,))
                self._written.append(where)
            self._named["data.path" if alone else f"data.{split}"] = str(fspath(where))
        if self._written and len(self._written) < len(tables):
            raise UserError("rows, val, test: some are files and some are in memory. Give all in one way")
        if self._written:
            self._named["data.root"] = str(Path.cwd())

    @property
    def overrides(self) -> list[str]:
        """All of them."""
        return [*overrides_of(self._named), *self.typed]

    def named_as_given(self, message: str) -> str:
        """A message in which tables in memory are called what they are, and not by the files that they are kept in."""
        for key, value in self._named.items():
            if Path(value) in self._written:
                table = "the table given" if key == "data.path" else f"the table of {key.removeprefix('data.')}"
                message = message.replace(f"{key}={value}", table).replace(value, table)
        return message

    def move(self, to: Path) -> bool:
        """Moves what was written into a folder, which may have it; returns whether anything was.

        Raises:
            UserError: the folder, of an earlier search, has other rows.
        """
        for file in self._written:
            if (to / file.name).exists() and not filecmp.cmp(file, to / file.name, shallow=False):
                raise UserError(f"rows: the search in {to} has other rows. Give the same, or a new hydra.sweep.dir")
        for file in self._written:
            shutil.move(file, to / file.name)
        names = {str(file): str((to / file.name).absolute()) for file in self._written}
        self._named = {key: names.get(value, value) for key, value in self._named.items()}
        self._written = [Path(names[str(file)]) for file in self._written]
        return bool(self._written)


def _column_of_images(typed: Iterable[str]) -> str | None:
    """The column that an override names."""
    named = [one.partition("=")[2] for one in typed if one.lstrip("+").startswith("data.columns.image=")]
    return named[-1].strip("'\"") if named else None


def _of_splits(tables: dict[str, Any]) -> dict[str, Any]:
    """The tables by split, of a `DatasetDict` those of its own; raises UserError if their names say too little."""
    from mmft.data.sources.memory import is_dataset_dict
    from mmft.data.splitting.names import SPLITS, meant

    given: Any = tables.get("train")
    if not is_dataset_dict(given):
        if isinstance(given, Mapping) and any(map(is_table, given.values())):
            raise UserError(f"rows: tables {', '.join(map(str, given))} given. Give one by one rows, val and test")
        return tables
    found = {meant(name): table for name, table in given.items()}
    if len(tables) > 1 or "train" not in found or len(found) != len(given) or not found.keys() <= {*SPLITS}:
        raise UserError(
            f"rows: splits {', '.join(given)} given. Give rows, val and test one by one, such as "
            f"rows=splits[{next(iter(given))!r}]"
        )
    return found


@contextmanager
def given_by(tables: Mapping[str, Any], typed: list[str], image: str | None, allow_code: bool) -> Iterator[Given]:
    """Context in which a command runs on what it is given; afterwards the process is as it was, see `as_it_was`."""
    with as_it_was(allow_code), tempfile.TemporaryDirectory() as scratch:
        given = Given(tables, typed, Path(scratch), image)
        try:
            yield given
        except UserError as error:
            raise UserError(map(given.named_as_given, error.messages)) from error.__cause__


def typed_of(overrides: Overrides, more: Mapping[str, Any], **columns: str | Sequence[str] | None) -> list[str]:
    """All overrides: roles of columns, of which one that is not given is absent, unless none is; then the others.

    Raises:
        UserError: a column is named by its role and by an override.
    """
    typed = [*overrides_of(overrides), *overrides_of(more)]
    if all(name is None for name in columns.values()):
        return typed
    named = {f"data.columns.{role}": name for role, name in columns.items()}
    keys = {one.partition("=")[0] for one in typed}
    for role, name in columns.items():
        if name is not None and (key := f"data.columns.{role}") in keys:
            raise UserError(f"{role}={name!r} and {key} are both given. Leave one of them out")
    return [*overrides_of({key: name for key, name in named.items() if name is not None or key not in keys}), *typed]
