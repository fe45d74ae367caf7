"""`Table`: one row per example, in columns that are safe to share with forked workers.

    file or rows -> Raw -> Table -> Row

Columns are Arrow arrays: lists of Python objects would be copied page by page in every worker, because reading changes
reference counts (pytorch #13246). Row numbers count data rows from 0; an unusable row keeps its number and is listed in
`Table.bad`.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmft.batch import BadRow, Pair, Row
from mmft.config.paths import table_files
from mmft.config.schema.data import ColumnsConfig, ReadingConfig, names_of
from mmft.data.conversations import with_places, written
from mmft.data.images.lists import image_names, source
from mmft.data.images.paths import image_source
from mmft.data.passthrough import PassthroughColumns
from mmft.data.role_columns import RoleColumns
from mmft.data.roles import check_names, roles
from mmft.data.sources.explode import exploded
from mmft.data.sources.formats import read_table_file
from mmft.data.sources.memory import read_rows
from mmft.data.sources.raw import Raw, joined
from mmft.data.splitting.names import split_of_file
from mmft.data.text import Texts


class Table:
    """Rows of a file or in memory; created by `Table.open` or `Table.from_rows`.

    Args:
        raw: the columns as read.
        columns: the roles of columns; columns missing from `raw` are treated as absent.
        root: base folder of relative image paths.
        where: the config key and the file, for messages.
        split: the only one that the rows belong to, if every split has a table of its own; it starts the row numbers
            that serve as ids, because they repeat in each.
        reading: names of splits, and how numbers are written.
        files: the files that the rows come from, and the number of rows of each; empty for rows in memory.
        keep: columns to keep; None for all.

    Attributes:
        split: as given.
        bad: unusable rows by number.
        passthrough: the columns to pass through.
        identity: equal for two tables only if their rows are equal; None for rows in memory, which are not compared.
    """

    def __init__(
        self,
        raw: Raw,
        columns: ColumnsConfig,
        root: Path,
        where: str,
        split: str = "",
        reading: ReadingConfig | None = None,
        files: Sequence[tuple[Path, int]] = (),
        keep: Collection[str] | None = (),
    ) -> None:
        self._files = files
        self.identity: Hashable = None
        self.columns = columns
        self.where = where
        self.bad: dict[int, BadRow] = {}
        self._length = raw.length
        self._root = str(root.absolute())
        self.split = split
        self._prefix = f"{split}:" if split else ""
        self._roles = RoleColumns(raw, columns, reading or ReadingConfig(), where)
        passed = {name: one for name, one in raw.columns.items() if keep is None or name in keep}
        self.passthrough = PassthroughColumns(passed)
        self.bad = {row: self.bad_row(row, *why) for row, why in sorted(self._roles.problems.items())}

    @classmethod
    def open(
        cls,
        path: str | Path | Sequence[str],
        columns: ColumnsConfig,
        root: Path | None = None,
        *,
        key: str = "data.path",
        optional: Collection[str] = (),
        split: str = "",
        reading: ReadingConfig | None = None,
        keep: Collection[str] | None = (),
    ) -> Table:
        """Reads table files.

        Args:
            path: a file, a folder, a pattern, or a list of them; see `mmft.config.paths.table_files`.
            columns: the roles of columns.
            root: base folder of relative image paths; None for the first file's folder.
            key: the config key that named the file.
            optional: fields of `columns` whose column may be absent from the file.
            split: the only one that the rows belong to; empty if the table has several.
            reading: how text files are read; None for the defaults.
            keep: columns to keep; None for all.

        Raises:
            UserError: the whole file or a whole column is unusable.
        """
        reading = reading or ReadingConfig()
        files = table_files(str(path) if isinstance(path, str | Path) else list(path))
        parts = [_read(file, f"{key}={file}", columns, optional, reading, keep) for file in files]
        rows = [(file, part.length) for file, part in zip(files, parts, strict=True)]
        where = f"{key}={path if isinstance(path, str | Path) else f'[{files[0]},...]'}"
        return cls(joined(parts), columns, root or files[0].parent, where, split, reading, rows, keep)

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Mapping[str, Any]] | Any,
        columns: ColumnsConfig,
        root: Path | None = None,
        *,
        optional: Collection[str] = (),
    ) -> Table:
        """Reads rows in memory.

        Args:
            rows: mappings, a DataFrame of pandas or polars, an Arrow table, or a data set of `datasets`.
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
        return self._roles.ids is not None

    def id(self, row: int) -> str:
        """The row's id, or its number if it has none."""
        value = None if self._roles.ids is None else self._roles.ids[row].as_py()
        return f"{self._prefix}{row}" if value is None else value

    def bad_row(self, row: int, column: str, reason: str) -> BadRow:
        """Row number `row` as one that cannot be used."""
        return BadRow(row, self.id(row), column, reason, self.split)

    def bad_among(self, rows: npt.NDArray[np.int64]) -> list[BadRow]:
        """Those of `rows` that cannot be used."""
        return [self.bad[row] for row in rows.tolist() if row in self.bad]

    def image(self, row: int) -> str | bytes | None:
        """Absolute path or encoded bytes of the row's image, the first of several; None if it has none."""
        return next(iter(self.images(row)), None)

    def images(self, row: int) -> tuple[str | bytes, ...]:
        """Absolute path or encoded bytes of each of the row's images."""
        images = self._roles.images
        if images.data is None and images.paths is None:
            return ()
        places = [row] if images.offsets is None else range(*images.offsets[row : row + 2].tolist())
        found = (source(images, at) for at in places)
        return tuple(
            one if isinstance(one, bytes) else image_source(self._root, one) for one in found if one is not None
        )

    def image_names(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """The images of `rows` as the table has them: their paths, or the sizes of those within it in bytes."""
        return image_names(self._roles.images, rows)

    @property
    def several_images(self) -> bool:
        """Whether any row has more than one image."""
        offsets = self._roles.images.offsets
        return offsets is not None and bool((np.diff(offsets) > 1).any())

    def text(self, row: int) -> str | None:
        """The row's text columns joined by a space, None if all are blank; or its conversation, turn by turn."""
        return self.texts(np.array([row]))[0]

    def texts(self, rows: npt.NDArray[np.int64]) -> list[str | None]:
        """`text` of many rows at once."""
        return [text if text is None or isinstance(text, str) else written(text) for text in self.prompts(rows)]

    def prompts(self, rows: npt.NDArray[np.int64]) -> Texts:
        """What the text encoder reads of `rows`: their texts, or their conversations up to the answer."""
        if self._roles.conversations is not None:
            found = self._roles.conversations.take(rows)
            if not self.several_images:
                return found
            every = zip(found, rows.tolist(), strict=True)
            return [one if one is None else with_places(one, len(self.images(row))) for one, row in every]
        if not self._roles.texts:
            return [None] * len(rows)
        taken = [column.take(pa.array(rows)).to_pylist() for column in self._roles.texts]
        return [_join(parts) for parts in zip(*taken, strict=True)]

    def weight(self, row: int) -> float:
        """The row's sample weight; 1 without a weight column."""
        return 1.0 if self._roles.weights is None else float(self._roles.weights[row])

    def labels(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """The labels of `rows` as in the table (str, int, float, bool); None without a label.

        Of a conversation it is the last turn, if that is the assistant's. If `data.columns.label` is a list, each is a
        dict of the columns' values.
        """
        return [None] * len(rows) if self._roles.labels is None else self._roles.labels.take(rows)

    def pairs(self, rows: npt.NDArray[np.int64]) -> list[Pair]:
        """Image, text, group and label of each of `rows`, for pair tasks."""
        groups = (
            [None] * len(rows) if self._roles.groups is None else self._roles.groups.take(pa.array(rows)).to_pylist()
        )
        images = [self.image(row) for row in rows.tolist()]
        return [Pair(*parts) for parts in zip(images, self.texts(rows), groups, self.labels(rows), strict=True)]

    def ids(self) -> list[str]:
        """Every row's id."""
        values = [None] * len(self) if self._roles.ids is None else self._roles.ids.to_pylist()
        return [f"{self._prefix}{row}" if value is None else value for row, value in enumerate(values)]

    def groups(self) -> list[str | None] | None:
        """Every row's group, None for a group of its own; None without a group column."""
        return None if self._roles.groups is None else self._roles.groups.to_pylist()

    def splits(self) -> list[str | None] | None:
        """Every row's split, None for a bad row with an unknown split; None if neither a column nor files name it."""
        if self._roles.splits is not None:
            found: list[str | None] = self._roles.splits.to_pylist()
            return found
        names = [split_of_file(file) for file, _ in self._files]
        if len(names) < 2 or None in names:
            return None
        return [name for name, (_, rows) in zip(names, self._files, strict=True) for _ in range(rows)]


def in_no_split(tables: Iterable[Table]) -> list[BadRow]:
    """The bad rows whose split is unknown, of each table once."""
    each = {id(table): table for table in tables}.values()
    return [table.bad[row] for table in each for row, name in enumerate(table.splits() or []) if name is None]


def _read(
    file: Path,
    where: str,
    columns: ColumnsConfig,
    optional: Collection[str],
    reading: ReadingConfig,
    keep: Collection[str] | None,
) -> Raw:
    """The columns of one file that have a role or are to be kept."""
    wanted = None if keep is None else {*roles(columns), *keep}
    raw = read_table_file(
        file, wanted, lambda names: check_names(names, columns, optional, where, keep or ()), where, reading
    )
    return exploded(raw, names_of(columns.text)) if reading.explode else raw


def _join(parts: Sequence[str | None]) -> str | None:
    return " ".join(part for part in parts if part and not part.isspace()) or None
