"""Label names: conversion from table values, sorting, display, warnings about near-duplicates."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)
_UNUSUAL = re.compile(r"[^\w.-]")  # in the name of a file
_BETWEEN = re.compile(r"[\s_-]+")  # words
_SHOWN = 10


def label_name(label: Any) -> str:
    """The label as text. Whole floats are written as integers, so that 1 and 1.0 are one label."""
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label)


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


def _spelling(name: str) -> str:
    """The canonical form shared by all spellings of a label."""
    try:
        return repr(float(name))
    except ValueError:
        return _BETWEEN.sub(" ", unicodedata.normalize("NFKC", name).casefold()).strip()


class ToldOnce:
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
