"""Names of splits: those of a split column, and those of files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

SPLITS = ("train", "val", "test")
"""The splits, as a split column names them."""
_TABLE = "test/"  # starts the name of the split of a named test table

_USUAL_NAMES = {"training": "train", "testing": "test"} | dict.fromkeys(
    ("valid", "validation", "dev", "development", "eval"), "val"
)
"""Other names of a split, in any case."""


def understood(column: pa.ChunkedArray, given: Mapping[str, str]) -> pa.ChunkedArray:
    """The split names with those that the user has given, and usual ones in any case, replaced by ours."""
    values = column.to_pylist()
    splits = {name: given.get(name, meant(name)) for name in {*values} if name is not None}
    return pa.chunked_array([[None if name is None else splits[name] for name in values]], pa.string())


def split_of_file(file: Path) -> str | None:
    """The split that a file such as `train-00000-of-00002.parquet` is named after; None if it is not."""
    first = meant(re.split(r"[^a-z]", file.stem.lower(), maxsplit=1)[0])
    return first if first in SPLITS else None


def meant(name: str) -> str:
    """The split that is usually called so, in any case: `Validation` -> `val`; the name itself if none is."""
    plain = name.strip().lower()
    return plain if plain in SPLITS else _USUAL_NAMES.get(plain, name)


def splits_to_test(splits: Iterable[str]) -> list[str]:
    """Those splits that are tested: none, `test` alone, or `test/photo` and others, one per named table, in order.

    The first is meant wherever there is one place for test results only.
    """
    return [name for name in splits if is_tested(name)]


def splits_to_show(splits: Iterable[str]) -> list[str]:
    """Those whose rows and predictions are shown: the tested ones, without any `val`; none of neither."""
    names = list(splits)
    return splits_to_test(names) or [name for name in names if name == "val"]


def is_tested(split: str) -> bool:
    """Whether a split is `test` or a test table."""
    return split == "test" or split.startswith(_TABLE)


def table_of(split: str) -> str:
    """The name of the table of a test split: `test/photo` -> `photo`; empty for the only one."""
    return split.removeprefix(_TABLE) if split.startswith(_TABLE) else ""


def file_of(name: str, split: str) -> str:
    """The file that a run writes for a split: `predictions` and `test/photo` -> `predictions_photo`."""
    table = table_of(split)
    return f"{name}_{table}" if table else name
