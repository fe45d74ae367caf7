"""Label names: conversion from table values, sorting, display, warnings about near-duplicates.

`text_of` is how every value of a table becomes text, whatever the file type: ids, texts, paths, groups and labels.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

log = logging.getLogger(__name__)
_UNUSUAL = re.compile(r"[^\w.-]")  # in the name of a file
_BETWEEN = re.compile(r"[\s_-]+")  # words
_WHOLE = re.compile(r"([+-]?\d+)\.0+")  # a whole number, as pandas writes integers beside gaps
_SHOWN = 10
_COMPARED = 200  # labels that are searched for a near miss, which takes time for each


def text_of(value: Any) -> str:
    """A value of a table as text: whole floats as integers, decimals in full, everything else as Python writes it.

    >>> text_of(8.4e12), text_of(0.5), text_of(True)
    ('8400000000000', '0.5', 'True')
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def label_name(label: Any) -> str:
    """The label as text, without surrounding blanks; `1`, `1.0` and the numbers 1 and 1.0 are one label."""
    name = text_of(label).strip()
    whole = _WHOLE.fullmatch(name)
    return name if whole is None else whole[1]


def by_label_name(names: Sequence[str]) -> dict[str, int]:
    """The index of each of `names` by `label_name`; of two names for one label, the first."""
    index: dict[str, int] = {}
    for at, name in enumerate(names):
        index.setdefault(label_name(name), at)
    return index


class UnseenLabel(ValueError):
    """A label that no training row has.

    Args:
        name: the label.
        known: the labels of the training rows; the nearest is named.
    """

    def __init__(self, name: str, known: Sequence[str]) -> None:
        near = [other for other in known if _spelling(other) == _spelling(name)]
        near = near or (get_close_matches(name, known, n=1, cutoff=0.7) if len(known) <= _COMPARED else [])
        hint = f"; the nearest is {near[0]!r}" if near else ""
        super().__init__(f"label {name!r} is not among the training rows' labels{hint}")
        self.name = name


def in_files(name: str) -> str:
    """A table name made safe for a file name."""
    return _UNUSUAL.sub("_", name)


def in_order(names: Iterable[str]) -> list[str]:
    """The names sorted: numbers by value, then words."""
    return sorted(names, key=_by_value)


def _by_value(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def shown(names: Sequence[str], most: int = _SHOWN) -> str:
    """The first `most` names for a message, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def tell_alike(counts: Mapping[str, int]) -> None:
    """Warns about near-duplicate names such as `Cat` and `cat `, or `1` and `1.0`. They remain separate labels.

    Args:
        counts: rows by name.
    """
    by_spelling: dict[str, list[str]] = {}
    for name in in_order(counts):
        by_spelling.setdefault(_spelling(name), []).append(name)
    groups = [
        " and ".join(f"{name!r} ({counts[name]:,})" for name in names) for names in by_spelling.values() if names[1:]
    ]
    if groups:
        log.warning(
            "labels that differ only in case, whitespace or number format are treated as different labels "
            "(training rows): %s",
            shown(groups),
        )


def tell_joined(counts: Iterable[str], separator: str) -> None:
    """Warns about names such as `food, bw` beside `food`, which look like several labels with another separator."""
    names = set(counts)
    for mark in (",", ";", "|", "/", "+", " "):
        joined = [name for name in names if mark in name and any(part.strip() in names for part in name.split(mark))]
        if joined and mark.strip() != separator.strip():
            log.warning(
                "%d labels such as %r look like several. If they are, type \"task.separator='%s'\"",
                *(len(joined), min(joined), mark),
            )
            return


def _spelling(name: str) -> str:
    """The canonical form shared by all spellings of a label."""
    try:
        return repr(float(name))
    except ValueError:
        return _BETWEEN.sub(" ", unicodedata.normalize("NFKC", name).casefold()).strip()


class WarnOnce:
    """Warns once per label.

    Args:
        text: the warning, with `%s` for the label names.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._told: set[str] = set()

    def tell(self, names: Iterable[str]) -> None:
        """Warns about those `names` not warned about before."""
        if new := [name for name in names if name not in self._told]:
            self._told.update(new)
            log.warning(self._text, shown(new))
