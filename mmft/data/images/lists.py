"""Columns of images of which a row may have several: lists of what an image may be given as."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from mmft.data.columns import Images, Reasons, as_images, is_null
from mmft.data.sources.raw import Column


def as_all_images(column: Column) -> tuple[Images, Reasons]:
    """As `as_images`, also of lists of images, and of JSON lists of paths in a text column (CSV)."""
    if not _has_lists(column):
        return as_images(column)
    values = column if isinstance(column, list) else column.to_pylist()
    rows = [_listed(value) for value in values]
    images, wrong = as_images(list(chain.from_iterable(rows)))
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    reasons: Reasons = {row: reason for row, value in enumerate(values) if (reason := _gap(value)) is not None}
    for at, reason in sorted(wrong.items()):
        row = int(np.searchsorted(offsets, at, side="right")) - 1
        reasons.setdefault(row, f"image {at - offsets[row] + 1}: {reason}")
    return images._replace(offsets=offsets), reasons


def _has_lists(column: Column) -> bool:
    if isinstance(column, list):
        return any(isinstance(value, list | tuple) or _is_json(value) for value in column)
    if types.is_list(column.type) or types.is_large_list(column.type):
        return True
    text = types.is_string(column.type) or types.is_large_string(column.type)
    return text and bool(pc.any(pc.starts_with(column, "[")).as_py())


def _listed(value: Any) -> list[Any]:
    """The images of a row."""
    if isinstance(value, list | tuple):
        return [one for one in value if not is_null(one)]
    if _is_json(value):
        return list(json.loads(value))
    return [] if is_null(value) or value == "" else [value]


def _gap(value: Any) -> str | None:
    """What is wrong with a list in which one image is missing beside others."""
    gaps = [is_null(one) for one in value] if isinstance(value, list | tuple) else []
    if len(set(gaps)) < 2:
        return None
    return f"image {gaps.index(True) + 1} of {len(gaps)} is missing; leave it out of the list"


def _is_json(value: Any) -> bool:
    """Whether a text is a JSON list of texts."""
    if not isinstance(value, str) or not value.startswith("["):
        return False
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, list) and all(isinstance(one, str) for one in found)


def rows_of(images: Images, rows: int) -> Any:
    """(images,) the row of each, for `rows` rows."""
    if images.offsets is None:
        return np.arange(rows)
    return np.repeat(np.arange(rows), np.diff(images.offsets))


def counts_of(images: Images, rows: int) -> Any:
    """(rows,) how many images each row has."""
    every: Any = np.zeros(rows, dtype=np.int64)
    there = np.zeros(len(rows_of(images, rows)), dtype=bool)
    for column in (images.data, images.paths):
        if column is not None:
            length = pc.binary_length(column if column is images.data else pc.utf8_trim_whitespace(column))
            there |= pc.fill_null(pc.greater(length, 0), False).to_numpy()
    np.add.at(every, rows_of(images, rows)[there], 1)
    return every


def image_names(images: Images, rows: npt.NDArray[np.int64]) -> list[Any]:
    """Of all images of `rows`: the path, or the size in bytes; last, where rows may have several, how many each has."""
    if images.data is None and images.paths is None:
        return []
    counts: list[Any] = []
    if images.offsets is not None:
        counts = np.diff(images.offsets)[rows].tolist()
        rows = np.concatenate([np.arange(*images.offsets[row : row + 2]) for row in rows] or [rows])
    nothing = [None] * len(rows)
    at = pa.array(rows)
    sizes = nothing if images.data is None else pc.binary_length(images.data).take(at).to_pylist()
    paths = nothing if images.paths is None else images.paths.take(at).to_pylist()
    return [*(size or path for size, path in zip(sizes, paths, strict=True)), *counts]


def source(images: Images, at: int) -> bytes | str | None:
    """The bytes or the path of an image; None for neither."""
    encoded = None if images.data is None else images.data[at].as_py()
    if encoded:
        return bytes(encoded)
    path = None if images.paths is None else images.paths[at].as_py()
    return None if path is None or not path.strip() else str(path)
