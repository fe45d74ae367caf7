"""Units: rows that a random split keeps together, because they share a group or an image."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from mmft.data.table import Table
from mmft.errors import UserError

log = logging.getLogger(__name__)
T = TypeVar("T")
_HEAD = 1 << 14  # bytes that are compared before whole files are


def units_of(table: Table, drawing: str) -> list[str]:
    """The name of every row's unit, which does not depend on the order of rows.

    Rows with one group or one image are one unit, also in a chain. A unit is named after its group, or the id of its
    row; if it has several, after the first of them by name.

    Args:
        table: the rows.
        drawing: `data.drawing`; with `by_row`, images are not compared.

    Raises:
        UserError: two rows without a group have the same id.
    """
    ids, groups = table.ids(), table.groups() or [None] * len(table)
    _check_unique(table, [i for i, g in zip(ids, groups, strict=True) if g is None])
    names = [f"id {i}" if g is None else f"group {g}" for i, g in zip(ids, groups, strict=True)]
    if drawing == "by_row":
        return names
    images = same_images([table.image(row) for row in range(len(table))])
    counts = [count for image, count in Counter(images).items() if image is not None and count > 1]
    if not counts:
        return names
    log.info(
        "%s: %d images occur in several rows (%d rows); rows of one image are kept in one split",
        *(table.where, len(counts), sum(counts)),
    )
    return _linked(names, images)


def _check_unique(table: Table, ids: list[str]) -> None:
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        shown = ", ".join(map(repr, twice[:3]))
        raise UserError(
            f"data.columns.id={table.columns.id}: {len(twice)} ids of {table.where} occur twice ({shown}), "
            "so rows cannot be split by id; make them unique, or set data.columns.group"
        )


def same_images(sources: list[str | bytes | None]) -> list[str | bytes | None]:
    """The sources with one representative for all that have the same bytes; None for no image.

    Only files of one size are read: first their beginnings, then, if these agree, all of them.

    Args:
        sources: paths or encoded bytes.
    """
    different = [source for source in dict.fromkeys(sources) if source is not None]
    alike = [different]
    for feature in (_size, _beginning, _content):
        alike = [group for groups in alike for group in _grouped(groups, feature) if len(group) > 1]
    first = {source: group[0] for group in alike for source in group}
    return [None if source is None else first.get(source, source) for source in sources]


def _grouped(sources: Iterable[str | bytes], feature: Callable[[str | bytes], T | None]) -> list[list[str | bytes]]:
    """The sources by a feature; those without one, such as missing files, are left out."""
    groups: dict[T, list[str | bytes]] = defaultdict(list)
    for source in sources:
        try:
            value = feature(source)
        except (OSError, ValueError):
            continue
        if value is not None:
            groups[value].append(source)
    return list(groups.values())


def _size(source: str | bytes) -> int | None:
    return len(source) if isinstance(source, bytes) else Path(source).stat().st_size if Path(source).is_file() else None


def _beginning(source: str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:_HEAD]
    with Path(source).open("rb") as file:
        return file.read(_HEAD)


def _content(source: str | bytes) -> bytes:
    return blake2b(source if isinstance(source, bytes) else Path(source).read_bytes()).digest()


def _linked(names: list[str], images: list[str | bytes | None]) -> list[str]:
    """The first name, in alphabetical order, of those linked by a chain of equal images."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while (parent := above.get(name, name)) != name:
            above[name] = above.get(parent, parent)
            name = parent
        return name

    of_image: dict[str | bytes, str] = {}
    for name, image in zip(names, images, strict=True):
        if image is not None:
            low, high = sorted((top(name), top(of_image.setdefault(image, name))))
            above[high] = low
    return [top(name) for name in names]


def units_suffix(units: list[str]) -> str:
    """How many units rows are in, behind "N rows"; nothing if each is one."""
    count = len(set(units))
    return "" if count == len(units) else f" in {count} group{'s'[: count > 1]} of one image or one value of a column"
