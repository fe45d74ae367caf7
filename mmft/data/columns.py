"""Converts raw columns to the type of their role: texts and paths, images, labels, weights.

Each function returns the converted column and `{row: reason}` for unusable values, which are null in the column. A
column whose Arrow type cannot be converted raises `WrongType`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import date, time
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from mmft.config.wording import kind_of
from mmft.data.images.pixels import IMAGES, encoded
from mmft.data.sources.raw import Column, text_chunk
from mmft.tasks.labels import text_of

Reasons = dict[int, str]
_SEVERAL = "several captions of an image are several rows, which data.reading.explode=true makes of them"


class WrongType(ValueError):
    """The column's Arrow type does not fit its role; the message names the type."""


class Images(NamedTuple):
    """Image sources: encoded bytes, paths, or either per row (null in one means the other)."""

    data: pa.ChunkedArray | None
    paths: pa.ChunkedArray | None
    offsets: npt.NDArray[np.int64] | None = (
        None  # (rows + 1,) the images of a row i: from i to i + 1; None for one each
    )


class Labels(NamedTuple):
    """Labels as in the table; `mixed` types are stored as JSON, because an Arrow column has one type."""

    values: pa.ChunkedArray
    mixed: bool

    def take(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """The labels of `rows` as Python values; None for null, NaN and the empty string."""
        values = self.values.take(pa.array(rows)).to_pylist()
        if self.mixed:
            values = [None if value is None else json.loads(value) for value in values]
        return [None if is_null(value) or value == "" else value for value in values]


class LabelColumns(NamedTuple):
    """Several label columns by name; a row's label is a dict of their values."""

    columns: dict[str, Labels]

    def take(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """One dict per row, with None for nulls."""
        taken = [column.take(rows) for column in self.columns.values()]
        return [dict(zip(self.columns, values, strict=True)) for values in zip(*taken, strict=True)]


def is_null(value: Any) -> bool:
    """Whether it is None, NaN, or a pandas missing value (unequal to itself, or not comparable)."""
    if value is None or isinstance(value, (str, bytes, dict, list, tuple)):
        return value is None
    same = value == value
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(same, (bool, np.bool_)) and not same)


def as_strings(column: Column) -> tuple[pa.ChunkedArray, Reasons]:
    """Texts, paths, ids, groups, split names: numbers and dates are converted to text, lists are rejected."""
    return _strings_from_list(column) if isinstance(column, list) else _strings_from_arrow(column)


def as_texts(column: Column) -> tuple[pa.ChunkedArray, Reasons]:
    """Text inputs. Rejects lists of captions with a hint, because each caption needs its own row."""
    try:
        texts, reasons = as_strings(column)
    except WrongType as error:
        nested = not isinstance(column, list) and _is_list(column.type)
        raise WrongType(f"{error}; {_SEVERAL}" if nested else str(error)) from None
    lists = {row for row in reasons if isinstance(column, list) and isinstance(column[row], list)}
    return texts, {row: f"{reason}; {_SEVERAL}" if row in lists else reason for row, reason in reasons.items()}


def _strings_from_list(values: Sequence[Any]) -> tuple[pa.ChunkedArray, Reasons]:
    reasons: Reasons = {}
    texts: list[str | None] = []
    for row, value in enumerate(values):
        usable = isinstance(value, (str, Number, np.generic, date, time)) and not isinstance(value, bytes)
        if not usable and not is_null(value):
            reasons[row] = f"{_kind(value)} where a text is needed"
        texts.append(text_of(_plain_value(value)) if usable and not is_null(value) else None)
    array, broken = text_chunk(texts)
    reasons.update(dict.fromkeys(broken, "not valid Unicode text"))
    return pa.chunked_array([array]), reasons


def _plain_value(value: Any) -> Any:
    """A NumPy scalar as Python's; a float32 as the shortest number that it stands for."""
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def _kind(value: Any) -> str:
    if isinstance(value, bytes):
        return "a file"
    return "an object" if isinstance(value, dict) else kind_of(value)


def _strings_from_arrow(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Reasons]:
    column = _plain(column)
    kind = column.type
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_nested(kind):
        raise WrongType(f"holds {kind}, not text")
    if types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind):
        return _only_unicode(column.cast(pa.large_string() if types.is_large_string(kind) else pa.string()))
    return _strings_from_list(list(column.to_numpy()) if types.is_float32(kind) else column.to_pylist())


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Converts dictionary and view arrays to plain arrays."""
    if types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if types.is_binary_view(column.type) else column


def _only_unicode(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Reasons]:
    """Replaces strings that are not UTF-8 by null; Arrow would otherwise raise on each later access."""
    try:
        column.validate(full=True)
        return column, {}
    except pa.ArrowInvalid:
        reasons: Reasons = {}
        texts: list[str | None] = []
        for row, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
            try:
                texts.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                reasons[row] = "not UTF-8 text"
                texts.append(None)
        return pa.chunked_array([pa.array(texts, pa.large_string())]), reasons


def as_images(column: Column) -> tuple[Images, Reasons]:
    """Paths, what `pixels.encoded` takes, or `{bytes, path}` as written by the `datasets` library."""
    return _images_from_list(column) if isinstance(column, list) else _images_from_arrow(column)


def _images_from_list(values: Sequence[Any]) -> tuple[Images, Reasons]:
    reasons: Reasons = {}
    data: list[bytes | None] = []
    paths: list[str | None] = []
    for row, value in enumerate(values):
        if isinstance(value, dict):
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        value = str(value) if hasattr(value, "__fspath__") else value
        try:
            data.append(encoded(value))
        except (OSError, ValueError, KeyError) as error:
            reasons[row], value = f"an image that cannot be read: {error}", None
            data.append(None)
        paths.append(value if isinstance(value, str) else None)
        if data[-1] is None and paths[-1] is None and not is_null(value):
            reasons[row] = f"{_kind(value)} where {IMAGES} is needed"
    array, broken = text_chunk(paths)
    reasons.update(dict.fromkeys(broken, "a path that is not valid Unicode text"))
    held = pa.chunked_array([pa.array(data, pa.large_binary())])
    return Images(None if held.null_count == len(held) else held, pa.chunked_array([array])), reasons


def _images_from_arrow(column: pa.ChunkedArray) -> tuple[Images, Reasons]:
    column = _plain(column)
    kind = column.type
    if types.is_binary(kind) or types.is_large_binary(kind):
        return Images(column, None), {}
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        paths, reasons = as_strings(column)
        return Images(None, paths), reasons
    if types.is_struct(kind) and {"bytes", "path"} & {kind.field(at).name for at in range(kind.num_fields)}:
        return _images_from_struct(column)
    raise WrongType(f"holds {kind}; an image is a path, encoded bytes, or a struct of `bytes` and `path`")


def _images_from_struct(column: pa.ChunkedArray) -> tuple[Images, Reasons]:
    names = {column.type.field(at).name for at in range(column.type.num_fields)}
    data = _plain(pc.struct_field(column, "bytes")) if "bytes" in names else None
    if data is not None and types.is_null(data.type):
        data = None
    if data is not None and not (types.is_binary(data.type) or types.is_large_binary(data.type)):
        raise WrongType(f"holds {column.type}, whose `bytes` are not binary")
    paths, reasons = as_strings(pc.struct_field(column, "path")) if "path" in names else (None, {})
    return Images(data, paths), reasons


def as_labels(column: Column) -> tuple[Labels, Reasons]:
    """Scalars of any type and lists of them, types kept; objects are rejected.

    The task decides which labels it accepts.
    """
    if isinstance(column, list):
        return _labels_from_list([_answers(value) for value in column])
    column = _plain(column)
    if _is_list(column.type) and types.is_struct(column.type.value_type):
        return as_labels(column.to_pylist())
    if _is_list(column.type):
        return _lists_of_labels(column)
    if not _is_scalar(column.type):
        raise WrongType(f"holds {column.type}; a label is a text, a number, true/false, or a list of them")
    if types.is_string(column.type) or types.is_large_string(column.type):
        values, reasons = as_strings(column)
        return Labels(values, mixed=False), reasons
    return Labels(column, mixed=False), {}


def _answers(value: Any) -> Any:
    """The texts of a list of answers as VQA has them, `[{"answer": "red", ...}, ...]`; other values unchanged."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and "answer" in one for one in value):
        return [one["answer"] for one in value]
    return value


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (types.is_list, types.is_large_list, types.is_fixed_size_list))


def _is_scalar(kind: pa.DataType) -> bool:
    return not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _lists_of_labels(column: pa.ChunkedArray) -> tuple[Labels, Reasons]:
    """Parquet lists. One invalid text makes the whole column unusable, because Arrow does not report its row."""
    if not _is_scalar(column.type.value_type):
        raise WrongType(f"holds {column.type}; the labels of a row are texts, numbers or true/false")
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise WrongType(f"holds lists that cannot be read: {error}") from None
    return Labels(column, mixed=False), {}


def _labels_from_list(values: Sequence[Any]) -> tuple[Labels, Reasons]:
    reasons: Reasons = {}
    plain: list[Any] = []
    for row, value in enumerate(values):
        value = value.item() if isinstance(value, np.generic) else value
        wrong = [one for one in (value if isinstance(value, list) else [value]) if not _is_label(one)]
        if wrong:
            reasons[row] = f"{_kind(wrong[0])} where a label is needed"
        plain.append(value if row not in reasons and not is_null(value) else None)
    kinds = {type(value) for value in plain if value is not None}
    try:
        if len(kinds) > 1:  # Arrow would convert 1 to 1.0 next to 2.5
            raise pa.ArrowInvalid
        return Labels(pa.chunked_array([pa.array(plain)]), mixed=False), reasons
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        texts = [None if value is None else json.dumps(value) for value in plain]
        return Labels(pa.chunked_array([pa.array(texts, pa.string())]), mixed=True), reasons


def _is_label(value: Any) -> bool:
    return is_null(value) or isinstance(value, (str, int, float))


def as_weights(column: Column) -> tuple[npt.NDArray[np.float64], Reasons]:
    """Sample weights: finite numbers of at least 0. A missing weight makes a bad row; there is no default."""
    values = column if isinstance(column, list) else _plain(column).to_pylist()
    weights = np.ones(len(values), dtype=np.float64)
    reasons: Reasons = {}
    for row, value in enumerate(values):
        weight = _number(value)
        if weight is None:
            reasons[row] = "no weight" if is_null(value) else f"weight {value!r:.40} is not a number"
        elif not math.isfinite(weight) or weight < 0:
            reasons[row] = f"weight {weight} is not a finite number of at least 0"
        else:
            weights[row] = weight
    return weights, reasons


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
