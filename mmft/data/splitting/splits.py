"""Assigns rows to train, val and test: by a column, by files, by fractions, or by folds.

DataConfig -> Table -> {"train": Split, "val": Split, "test": Split}, or one test split per named table: "test/photo"
"""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmft.config.paths import table_files, tables_of
from mmft.config.schema.data import ColumnsConfig, DataConfig
from mmft.data.hashing import unit_hashes
from mmft.data.job_cache import JOB_CACHE, stamps
from mmft.data.splitting.folds import fold_splits
from mmft.data.splitting.fractions import fraction_splits, strata_of
from mmft.data.splitting.names import SPLITS, is_tested, splits_to_test
from mmft.data.splitting.units import units_of, units_suffix
from mmft.data.table import Table
from mmft.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Some rows of a table, in the table's order, including bad rows."""

    table: Table
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


def whole(table: Table) -> Split:
    """All rows of a table."""
    return Split(table, np.arange(len(table)))


def load_splits(config: DataConfig, seed: int) -> dict[str, Split]:
    """The splits configured by `data`, by name, of at most `data.limit` rows each.

    With `data.overfit` all three are the same training rows.

    Args:
        config: the keys below `data`.
        seed: of the run; used to draw fractions, folds and limits.

    Returns:
        `train`, and `val` and `test` if they have rows; of several test tables, a split each, such as `test/photo`.

    Raises:
        UserError: contradictory keys, unusable files, no training rows or none with a weight above 0, or no rows in a
            requested split.
    """
    _check_sources(config)
    splits = _from_files(config, seed) if config.path is None else _from_table(config, config.path, seed)
    if not any(map(splits["train"].table.weight, splits["train"].rows.tolist())):
        raise UserError(
            f"data.columns.weight={config.columns.weight}: all {len(splits['train']):,} training rows have weight 0, "
            "so there is nothing to train on"
        )
    if config.overfit is not None:
        return dict.fromkeys(SPLITS, limited(splits["train"], config.overfit, seed, config.drawing))
    if config.limit is None:
        return splits
    return {name: limited(split, config.limit, seed, config.drawing) for name, split in splits.items()}


def different(splits: Mapping[str, Split]) -> dict[str, Split]:
    """The distinct splits: with `data.overfit` all are the same, and only the training split is returned."""
    first: dict[int, str] = {}
    return {name: split for name, split in splits.items() if first.setdefault(id(split), name) == name}


def groups_of_earlier_splits(splits: Mapping[str, Split]) -> Iterator[tuple[str, int, str]]:
    """Rows whose group also occurs in an earlier split, so that one split leaks into another.

    Test tables do not leak into one another.

    Args:
        splits: by name, in order.

    Returns:
        (split, position, earlier split) of each such row.
    """
    known: dict[str, str] = {}
    for name, split in different(splits).items():
        groups = split.table.groups()
        owners = ChainMap({}, known) if is_tested(name) else known
        for position, row in enumerate(split.rows.tolist() if groups is not None else ()):
            if groups is not None and (group := groups[row]) is not None and owners.setdefault(group, name) != name:
                yield name, position, owners[group]


def load_rows(
    config: DataConfig,
    split: str | None,
    id_is_typed: bool = True,
    keep: Collection[str] | None = (),
    with_labels: bool = False,
) -> Split:
    """The rows of `data.path` for `mmft test` or `mmft predict`.

    Args:
        config: the keys below `data`.
        split: `test` for the rows that the split column assigns to it, or all rows without a split column; None for all
            rows, reading only the columns of images, texts and ids.
        id_is_typed: whether the user gave the id column. If it comes from the run, the table may lack it, and row
            numbers are used instead.
        keep: columns for `Table.passthrough`; None for all.
        with_labels: whether the labels of all rows are read, too, if the table has them.

    Raises:
        UserError: no file is given, it is unusable, or it has no rows in `split`.
    """
    if config.path is None:
        raise UserError("data.path is null; give the file of the rows")
    columns = inputs_only(config.columns, with_labels) if split is None else config.columns
    optional = ("label",) if split is None else ("split", "weight", "group")
    optional = optional if id_is_typed else (*optional, "id")
    table = open_table(config, "path", config.path, columns=columns, optional=optional, keep=keep)
    _warn_missing_ids(table)
    names = table.splits()
    if names is None or split is None:
        return whole(table)
    return _require(_by_name(table, names), [split], _no_such_split(table, names))[split]


def load_tests(config: DataConfig, id_is_typed: bool = True) -> dict[str, Split]:
    """All rows of the tables of `data.test` for `mmft test`, by split: `test`, or `test/photo` and others.

    Args:
        config: the keys below `data`.
        id_is_typed: as in `load_rows`.

    Raises:
        UserError: with everything that makes any of the tables unusable.
    """
    columns = replace(config.columns, split=None)
    optional = ("weight", "group") if id_is_typed else ("weight", "group", "id")
    splits = _whole_tables(replace(config, train=None, val=None, path=None), columns=columns, optional=optional)
    for split in splits.values():
        _warn_missing_ids(split.table)
    return splits


def _warn_missing_ids(table: Table) -> None:
    if table.columns.id is not None and not table.has_ids:
        log.info("%s has no column %s, the run's ids: row numbers are used instead", table.where, table.columns.id)


def inputs_only(columns: ColumnsConfig, with_labels: bool = False) -> ColumnsConfig:
    """The columns needed for prediction: columns used only in training must not make a row bad."""
    label = columns.label if with_labels else None
    return replace(columns, label=label, split=None, weight=None, group=None)


def open_table(
    config: DataConfig,
    key: str,
    files: str | list[str],
    *,
    columns: ColumnsConfig | None = None,
    optional: tuple[str, ...] = (),
    split: str = "",
    keep: Collection[str] | None = (),
) -> Table:
    """The table named by `data.<key>`, see `Table.open`; reuses the one that the previous job read, if unchanged."""
    root = None if config.root is None else Path(config.root)
    columns = config.columns if columns is None else columns
    options: dict[str, Any] = {"optional": optional, "split": split, "reading": config.reading, "keep": keep}
    place = None if root is None else str(root.absolute())
    identity = stamps(table_files(files)), repr((files, columns, options)), place, key

    def opened() -> Table:
        table = Table.open(files, columns, root, key=f"data.{key}", **options)
        table.identity = identity
        return table

    return JOB_CACHE.get(("table", identity), opened)


def _check_sources(config: DataConfig) -> None:
    """Checks that either one table or one file per split is given.

    Raises:
        UserError: neither or both are given.
    """
    messages: list[str] = []
    files = [name for name in SPLITS if getattr(config, name) is not None]
    if config.path is not None and files:
        given = ", ".join(f"data.{name}" for name in files)
        messages.append(f"data.path and {given} are both given; give one table or one file per split")
    elif config.path is None and "train" not in files:
        messages.append("data.path and data.train are both null; give the table of rows")
    elif files and config.columns.split is not None:
        messages.append(
            f"data.columns.split={config.columns.split}: with one file per split there is no split column; "
            "type data.columns.split=null"
        )
    if messages:
        raise UserError(messages)


def _from_files(config: DataConfig, seed: int) -> dict[str, Split]:
    """One table per split."""
    splits = _whole_tables(config)
    if config.folds is None:
        return splits
    return splits | _folded(splits["train"].table, None, bool(splits_to_test(splits)), config, seed)


def _whole_tables(config: DataConfig, **options: Any) -> dict[str, Split]:
    """All rows of every table that `data` names, by split: `data.train` is `train`, `data.test.photo` `test/photo`.

    Raises:
        UserError: with everything that is wrong with any of them.
    """
    splits: dict[str, Split] = {}
    messages: list[str] = []
    for key, files in tables_of(config).items():
        own = key.removeprefix("data.")
        name = own.replace(".", "/")
        try:
            splits[name] = whole(open_table(config, own, files, split=name, **options))
        except UserError as error:
            messages.extend(error.messages)
    if messages:
        raise UserError(messages)
    return splits


def _from_table(config: DataConfig, files: str | list[str], seed: int) -> dict[str, Split]:
    table = open_table(config, "path", files)
    names = table.splits()
    if names is not None and config.columns.split is None:
        log.info("%s: the files' names define the splits", table.where)
    if config.folds is not None:
        return _folded(table, names, "test" in (names or ()), config, seed)
    if names is not None:
        return _require(_by_name(table, names), ["train"], _no_such_split(table, names))
    shares = {name: float(getattr(config.fractions, name)) for name in SPLITS}
    units = units_of(table, config.drawing)
    splits = _by_name(table, fraction_splits(table, shares, seed, units))
    few = f"{len(table)} rows of {table.where}{units_suffix(units)} are too few for this share; none came out"
    return _require(splits, [name for name in SPLITS if shares[name] > 0], f"data.fractions.{{}}: {few}")


def _folded(
    table: Table, names: Sequence[str | None] | None, has_test: bool, config: DataConfig, seed: int
) -> dict[str, Split]:
    """The splits with one fold held out, without a test split from another table."""
    splits = _by_name(table, fold_splits(table, names, has_test, config, seed))
    cause = f"data.fold={config.fold}: {len(table)} rows of {table.where} are too few for data.folds={config.folds}"
    return _require(splits, ["train", "val" if has_test else "test"], f"{cause}; none of them came out as {{}}")


def _no_such_split(table: Table, names: Sequence[str | None]) -> str:
    found = ", ".join(f"{name} {names.count(name)}" for name in SPLITS if name in names) or "none"
    return f"data.columns.split={table.columns.split}: no row of {table.where} is in '{{}}'; rows by split: {found}"


def _by_name(table: Table, names: Sequence[str | None] | npt.NDArray[np.str_]) -> dict[str, Split]:
    """The splits with rows, by name."""
    array = np.array([str(name or "") for name in names])
    splits = {name: Split(table, np.flatnonzero(array == name)) for name in SPLITS}
    return {name: split for name, split in splits.items() if len(split)}


def _require(splits: Mapping[str, Split], names: Sequence[str], cause: str) -> dict[str, Split]:
    """`splits` as a dict; raises UserError with `cause.format(name)` for each of `names` without rows."""
    messages = [cause.format(name) for name in names if name not in splits]
    if messages:
        raise UserError(messages)
    return dict(splits)


def limited(split: Split, limit: int, seed: int, drawing: str) -> Split:
    """At most `limit` rows, in the table's order.

    Each label's rows are sorted by hash, and the rows that come first in their label, relative to its size, are taken:
    labels keep their proportions, and each has at least one row if `limit` allows. With `drawing=by_row`, the rows with
    the lowest hashes.
    """
    if len(split) <= limit:
        return split
    hashes = unit_hashes([split.table.id(row) for row in split.rows], seed, purpose="limit")
    places = np.zeros(len(split))
    for rows in strata_of(split.table.labels(split.rows)).values() if drawing != "by_row" else ():
        places[np.array(rows)[np.argsort(hashes[rows], kind="stable")]] = np.arange(len(rows)) / len(rows)
    return Split(split.table, np.sort(split.rows[np.lexsort((hashes, places))[:limit]]))
