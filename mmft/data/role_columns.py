"""From raw columns to columns with roles, and the reasons why rows are unusable.

Raw -> Roles -> Table
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmft.batch import IMAGE_PLACE
from mmft.config.schema.data import ColumnsConfig, ReadingConfig, names_of
from mmft.data.columns import (
    Images,
    LabelColumns,
    Labels,
    Reasons,
    WrongType,
    as_labels,
    as_strings,
    as_texts,
    as_weights,
)
from mmft.data.conversations import Conversations, as_conversations, check_places
from mmft.data.images.lists import as_all_images, counts_of, rows_of
from mmft.data.plain_numbers import with_plain_numbers
from mmft.data.roles import filled, is_template, named_in
from mmft.data.sources.raw import Column, Raw
from mmft.data.splitting.names import SPLITS, understood
from mmft.errors import UserError

_URL = r"^\s*[A-Za-z][A-Za-z0-9+.\-]+://"
_LOCAL_URL = r"^\s*file://"


class RoleColumns:
    """The columns of a table by role, in the types of their roles; None for a role without a column.

    Args:
        raw: the columns as read.
        columns: the roles of columns; columns missing from `raw` are treated as absent.
        reading: names of splits, and how numbers are written.
        where: the config key and the file, for messages.

    Attributes:
        texts: the text columns.
        conversations: they take the place of texts and labels.
        images: paths or encoded bytes.
        splits: `train`, `val`, `test`, or null where the name is unknown.
        problems: `(column, reason)` of unusable rows by number; the first problem of each.

    Raises:
        UserError: a whole column is unusable.
    """

    def __init__(self, raw: Raw, columns: ColumnsConfig, reading: ReadingConfig, where: str) -> None:
        self.columns, self.where = columns, where
        self.problems: dict[int, tuple[str, str]] = dict(raw.problems)
        self._raw, self._reading = raw, reading
        self._fill(columns)
        self._read_splits()
        self._find_unusable()
        del self._raw

    def _fill(self, columns: ColumnsConfig) -> None:
        """Converts every column to the type of its role, and records values that do not fit."""
        wrong: list[str] = []
        self.texts = [c for name in names_of(columns.text) if (c := self._take_text(name, wrong)) is not None]
        self.images = self._take_images(columns.image, wrong)
        self.conversations: Conversations | None = self._take("messages", columns.messages, as_conversations, wrong)
        plain = partial(with_plain_numbers, decimal=self._reading.decimal, thousands=self._reading.thousands)
        self.labels = self._take_labels(columns, lambda column: as_labels(plain(column)), wrong)
        if self.conversations is not None:
            self.labels = self.conversations.answers
        self.weights: npt.NDArray[np.float64] | None = self._take(
            "weight", columns.weight, lambda column: as_weights(plain(column)), wrong
        )
        self.ids: pa.ChunkedArray | None = self._take("id", columns.id, as_strings, wrong)
        self.groups: pa.ChunkedArray | None = self._take("group", columns.group, as_strings, wrong)
        self.splits: pa.ChunkedArray | None = self._take("split", columns.split, as_strings, wrong)
        if wrong:
            raise UserError(wrong)

    def _take_images(self, name: str | None, wrong: list[str]) -> Images:
        """The image column, or the paths that a template makes of other columns."""
        if name is None or not self._is_made(name):
            return self._take("image", name, as_all_images, wrong) or Images(None, None)
        paths, lacking = self._made("image", name, wrong)
        self._note(name, {row: f"no {', '.join(parts)} for the image's path" for row, parts in lacking.items()})
        return Images(None, paths)

    def _take_text(self, name: str, wrong: list[str]) -> pa.ChunkedArray | None:
        """A text column, or the texts that a template makes of other columns; null where one of them is empty."""
        return self._made("text", name, wrong)[0] if self._is_made(name) else self._take("text", name, as_texts, wrong)

    def _is_made(self, name: str) -> bool:
        """Whether it is a template: a column of this very name is meant if there is one."""
        return is_template(name) and name not in self._raw.columns

    def _made(self, role: str, name: str, wrong: list[str]) -> tuple[pa.ChunkedArray | None, dict[int, list[str]]]:
        """What a template makes of other columns, and the columns that are empty in a row; None if one is absent."""
        columns = {part: self._take(role, part, as_strings, wrong) for part in named_in(name)}
        if any(column is None for column in columns.values()):
            return None, {}
        texts: list[str | None] = []
        lacking: dict[int, list[str]] = {}
        for row, parts in enumerate(zip(*(column.to_pylist() for column in columns.values()), strict=True)):
            values = dict(zip(columns, parts, strict=True))
            if empty := [part for part, value in values.items() if not value or value.isspace()]:
                lacking[row] = empty
            texts.append(None if empty else filled(name, values))
        return pa.chunked_array([pa.array(texts, pa.string())]), lacking

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

    def _take_labels(
        self, columns: ColumnsConfig, convert: Callable[[Column], Any], wrong: list[str]
    ) -> Labels | LabelColumns | None:
        if isinstance(columns.label, str) and self._is_made(columns.label):
            texts = self._made("label", columns.label, wrong)[0]
            return None if texts is None else Labels(texts, mixed=False)
        if not isinstance(columns.label, list):
            single: Labels | None = self._take("label", columns.label, convert, wrong)
            return single
        found = {name: self._take("label", name, convert, wrong) for name in columns.label}
        return None if None in found.values() else LabelColumns(found)

    def _note(self, column: str, reasons: Reasons) -> None:
        """Records problems; the first problem of a row is the one reported."""
        for row, reason in reasons.items():
            self.problems.setdefault(row, (column, reason))

    def _find_unusable(self) -> None:
        """Records URLs instead of paths, and empty rows."""
        if self.images.paths is not None:
            paths = self.images.paths
            local = pc.match_substring_regex(paths, _LOCAL_URL)
            urls = rows_of(self.images, self._raw.length)[
                _rows_where(pc.and_not(pc.match_substring_regex(paths, _URL), local))
            ].tolist()
            reason = "a URL, not a path; download the images and give their paths"
            self._note(self.columns.image or "", dict.fromkeys(urls, reason))
        counts = counts_of(self.images, self._raw.length)
        there = counts > 0
        self._check_places(counts)
        for column in [*self.texts, *([self.conversations.prompts] if self.conversations else [])]:
            if column is not None:
                there |= _filled(column)
        self._note("", dict.fromkeys(np.flatnonzero(~there).tolist(), "neither an image nor a text"))

    def _check_places(self, counts: npt.NDArray[np.int64]) -> None:
        """Records rows whose words have another number of places for images than the row has images."""
        if self.conversations is None:
            reason = "{} images, but only a conversation has places for several: data.columns.messages"
            self._note(
                self.columns.image or "",
                {row: reason.format(counts[row]) for row in np.flatnonzero(counts > 1).tolist()},
            )
            return
        prompts = self.conversations.prompts
        places = pc.fill_null(pc.count_substring(prompts, IMAGE_PLACE), 0).to_numpy()
        reasons = {}
        for row in np.flatnonzero((places > 1) | (counts > 1)).tolist():
            try:
                check_places(int(places[row]), int(counts[row]))
            except ValueError as error:
                reasons[row] = str(error)
        self._note(self.columns.messages or "", reasons)

    def _read_splits(self) -> None:
        """Replaces split names by ours, and records unknown ones."""
        if self.splits is None:
            return
        self.splits = understood(self.splits, self._reading.split_names or {})
        known = pc.fill_null(pc.is_in(self.splits, pa.array(SPLITS, self.splits.type)), False)
        unknown = _rows_where(pc.invert(known))
        names = {row: self.splits[row].as_py() for row in unknown}
        if len(unknown) == self._raw.length:
            seen = sorted({f"{name!r:.40}" for name in names.values()})[:5]
            raise UserError(
                f"data.columns.split={self.columns.split}: no row of {self.where} is "
                f"{', '.join(SPLITS)}; its values are {', '.join(seen)}. data.reading.split_names says what they mean"
            )
        allowed = f"allowed: {', '.join(SPLITS)}, and the names in data.reading.split_names"
        self._note(
            self.columns.split or "",
            {
                row: f"no split; {allowed}" if name is None else f"{name!r:.40} is no split; {allowed}"
                for row, name in names.items()
            },
        )
        self.splits = pc.if_else(known, self.splits, pa.scalar(None, self.splits.type))


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
