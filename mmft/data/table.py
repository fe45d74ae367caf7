"""`Table`: one row per example, in columns that are safe to share with forked workers.

    file or rows -> Raw -> Table -> Row

Columns are Arrow arrays: lists of Python objects would be copied page by page in every worker, because reading changes
reference counts (pytorch #13246). Row numbers count data rows from 0; an unusable row keeps its number and is listed in
`Table.bad`.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmft.batch import BadRow, Pair, Row
from mmft.config.schema.data import ColumnsConfig, names_of
from mmft.data.columns import (
    Images,
    LabelColumns,
    Labels,
    Reasons,
    WrongType,
    as_images,
    as_labels,
    as_strings,
    as_texts,
    as_weights,
)
from mmft.data.formats import Column, Raw, read_file
from mmft.data.image_paths import image_source
from mmft.data.roles import check_names, roles
from mmft.data.rows import read_rows
from mmft.errors import UserError

SPLITS = ("train", "val", "test")
"""The values allowed in a split column."""

_URL = r"^\s*[A-Za-z][A-Za-z0-9+.\-]+://"
_LOCAL_URL = r"^\s*file://"


class Table:
    """Rows of a file or in memory; created by `Table.open` or `Table.from_rows`.

    Args:
        raw: the columns as read.
        columns: the roles of columns; columns missing from `raw` are treated as absent.
        root: base folder of relative image paths.
        where: the config key and the file, for messages.
        prefix: prepended to row numbers that serve as ids.

    Attributes:
        bad: unusable rows by number.
        identity: equal for two tables only if their rows are equal; None for rows in memory, which are not compared.
    """

    def __init__(self, raw: Raw, columns: ColumnsConfig, root: Path, where: str, prefix: str = "") -> None:
        self.identity: Hashable = None
        self.columns = columns
        self.where = where
        self.bad: dict[int, BadRow] = {}
        self._length = raw.length
        self._root = str(root.absolute())
        self._prefix = prefix
        self._problems: dict[int, tuple[str, str]] = dict(raw.problems)
        self._raw = raw
        self._fill(columns)
        del self._raw
        self._find_unusable()
        self.bad = {row: BadRow(row, self.id(row), *why) for row, why in sorted(self._problems.items())}

    @classmethod
    def open(
        cls,
        path: Path,
        columns: ColumnsConfig,
        root: Path | None = None,
        *,
        key: str = "data.path",
        optional: Collection[str] = (),
        prefix: str = "",
    ) -> Table:
        """Reads a CSV, TSV, JSONL or Parquet file.

        Args:
            path: the file.
            columns: the roles of columns.
            root: base folder of relative image paths; None for the file's folder.
            key: the config key that named the file.
            optional: fields of `columns` whose column may be absent from the file.
            prefix: prepended to row numbers that serve as ids.

        Raises:
            UserError: the whole file or a whole column is unusable.
        """
        where = f"{key}={path}"
        raw = read_file(path, set(roles(columns)), lambda names: check_names(names, columns, optional, where), where)
        return cls(raw, columns, root or path.parent, where, prefix)

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Mapping[str, Any]] | Any,
        columns: ColumnsConfig,
        root: Path | None = None,
        *,
        optional: Collection[str] = (),
    ) -> Table:
        """Reads rows in memory: mappings, a pandas DataFrame, or an Arrow table.

        Args:
            rows: the rows.
            columns: the roles of columns.
            root: base folder of relative image paths; None for the working directory.
            optional: fields of `columns` whose column may be absent.

        Raises:
            UserError: a column is missing or wholly unusable.
        """
        raw = read_rows(rows, set(roles(columns)), lambda names: check_names(names, columns, optional, "rows"))
        return cls(raw, columns, root or Path.cwd(), "rows")

    def __len__(self) -> int:
        return self._length

    def row(self, row: int) -> Row:
        """Row number `row`; for a bad row only what could be read."""
        label = self.labels(np.array([row]))[0]
        return Row(row, self.id(row), self.image(row), self.text(row), label, self.weight(row))

    @property
    def has_ids(self) -> bool:
        """Whether the table has an id column."""
        return self._ids is not None

    def id(self, row: int) -> str:
        """The row's id, or its number if it has none."""
        value = None if self._ids is None else self._ids[row].as_py()
        return f"{self._prefix}{row}" if value is None else value

    def image(self, row: int) -> str | bytes | None:
        """Absolute path or encoded bytes of the row's image; None if it has none."""
        data, paths = self._images
        encoded = None if data is None else data[row].as_py()
        if encoded:
            return bytes(encoded)
        path = None if paths is None else paths[row].as_py()
        return None if path is None or not path.strip() else image_source(self._root, path)

    def text(self, row: int) -> str | None:
        """The row's text columns joined by a space; None if all are blank."""
        return _join([column[row].as_py() for column in self._texts])

    def texts(self, rows: npt.NDArray[np.int64]) -> list[str | None]:
        """`text` of many rows at once."""
        if not self._texts:
            return [None] * len(rows)
        taken = [column.take(pa.array(rows)).to_pylist() for column in self._texts]
        return [_join(parts) for parts in zip(*taken, strict=True)]

    def weight(self, row: int) -> float:
        """The row's sample weight; 1 without a weight column."""
        return 1.0 if self._weights is None else float(self._weights[row])

    def labels(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """The labels of `rows` as in the table (str, int, float, bool); None without a label.

        If `data.columns.label` is a list, each is a dict of the columns' values.
        """
        return [None] * len(rows) if self._labels is None else self._labels.take(rows)

    def pairs(self, rows: npt.NDArray[np.int64]) -> list[Pair]:
        """Image, text, group and label of each of `rows`, for pair tasks."""
        groups = [None] * len(rows) if self._groups is None else self._groups.take(pa.array(rows)).to_pylist()
        images = [self.image(row) for row in rows.tolist()]
        return [Pair(*parts) for parts in zip(images, self.texts(rows), groups, self.labels(rows), strict=True)]

    def ids(self) -> list[str]:
        """Every row's id."""
        values = [None] * len(self) if self._ids is None else self._ids.to_pylist()
        return [f"{self._prefix}{row}" if value is None else value for row, value in enumerate(values)]

    def groups(self) -> list[str | None] | None:
        """Every row's group, None for a group of its own; None without a group column."""
        return None if self._groups is None else self._groups.to_pylist()

    def splits(self) -> list[str | None] | None:
        """Every row's split, None for a bad row with an unknown split; None without a split column."""
        return None if self._splits is None else self._splits.to_pylist()

    def _fill(self, columns: ColumnsConfig) -> None:
        """Converts every column to the type of its role, and records values that do not fit."""
        wrong: list[str] = []
        self._texts = [c for name in names_of(columns.text) if (c := self._take("text", name, as_texts, wrong))]
        self._images: Images = self._take("image", columns.image, as_images, wrong) or Images(None, None)
        self._labels = self._take_labels(columns, wrong)
        self._weights: npt.NDArray[np.float64] | None = self._take("weight", columns.weight, as_weights, wrong)
        self._ids: pa.ChunkedArray | None = self._take("id", columns.id, as_strings, wrong)
        self._groups: pa.ChunkedArray | None = self._take("group", columns.group, as_strings, wrong)
        self._splits: pa.ChunkedArray | None = self._take("split", columns.split, as_strings, wrong)
        if wrong:
            raise UserError(wrong)

    def _take(self, role: str, name: str | None, convert: Any, wrong: list[str]) -> Any:
        """The column converted to its role's type; None if it is absent."""
        column: Column | None = None if name is None else self._raw.columns.get(name)
        if column is None or name is None:
            return None
        try:
            made, reasons = convert(column)
        except WrongType as error:
            wrong.append(f"data.columns.{role}={name}: in {self.where} the column {error}")
            return None
        self._note(name, reasons)
        return made

    def _take_labels(self, columns: ColumnsConfig, wrong: list[str]) -> Labels | LabelColumns | None:
        if not isinstance(columns.label, list):
            single: Labels | None = self._take("label", columns.label, as_labels, wrong)
            return single
        found = {name: self._take("label", name, as_labels, wrong) for name in columns.label}
        return None if None in found.values() else LabelColumns(found)

    def _note(self, column: str, reasons: Reasons) -> None:
        """Records problems; the first problem of a row is the one reported."""
        for row, reason in reasons.items():
            self._problems.setdefault(row, (column, reason))

    def _find_unusable(self) -> None:
        """Records URLs instead of paths, unknown split names, and empty rows."""
        if self._images.paths is not None:
            paths = self._images.paths
            local = pc.match_substring_regex(paths, _LOCAL_URL)
            urls = _rows_where(pc.and_not(pc.match_substring_regex(paths, _URL), local))
            reason = "a URL, not a path; download the images and give their paths"
            self._note(self.columns.image or "", dict.fromkeys(urls, reason))
        self._find_unknown_splits()
        filled = np.zeros(len(self), dtype=bool)
        for column in [*self._texts, *self._images]:
            if column is not None:
                filled |= _filled(column)
        self._note("", dict.fromkeys(np.flatnonzero(~filled).tolist(), "neither an image nor a text"))

    def _find_unknown_splits(self) -> None:
        if self._splits is None:
            return
        known = pc.fill_null(pc.is_in(self._splits, pa.array(SPLITS, self._splits.type)), False)
        unknown = _rows_where(pc.invert(known))
        names = {row: self._splits[row].as_py() for row in unknown}
        if len(unknown) == len(self):
            seen = sorted({repr(name) for name in names.values()})[:5]
            raise UserError(
                f"data.columns.split={self.columns.split}: no row of {self.where} is "
                f"{', '.join(SPLITS)}; its values are {', '.join(seen)}"
            )
        allowed = f"allowed: {', '.join(SPLITS)}"
        self._note(
            self.columns.split or "",
            {
                row: f"no split; {allowed}" if name is None else f"split {name!r}; {allowed}"
                for row, name in names.items()
            },
        )
        self._splits = pc.if_else(known, self._splits, pa.scalar(None, self._splits.type))


def _join(parts: Sequence[str | None]) -> str | None:
    return " ".join(part for part in parts if part and not part.isspace()) or None


def _rows_where(mask: pa.ChunkedArray) -> list[int]:
    """The rows where the mask is true; null counts as false."""
    rows: list[int] = np.flatnonzero(pc.fill_null(mask, False).to_numpy()).tolist()
    return rows


def _filled(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """(rows,) bool, True = not null, not empty, and for text not only whitespace."""
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    length = pc.binary_length(pc.utf8_trim_whitespace(column) if text else column)
    filled: npt.NDArray[np.bool_] = pc.fill_null(pc.greater(length, 0), False).to_numpy()
    return filled
