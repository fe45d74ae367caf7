"""Names of labels: how the table's values become them, in which order they stand, which a split lacks."""

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
    """The label as text: whole floats without their point, so that 1 and 1.0 are one label."""
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label)


def in_files(name: str) -> str:
    """A name from the table as part of a file's name."""
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
    """The names, or the first `most` of them and how many more there are, for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def tell_alike(counts: Mapping[str, int]) -> None:
    """Warns of names that are spellings of one: `Cat` and `cat `, or `1` and `1.0`. They stay labels of their own.

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
            "labels that differ only in case, blanks or how a number is written are labels of their own "
            "(training rows): %s",
            shown(groups),
        )


def _spelling(name: str) -> str:
    """What spellings of one label have in common."""
    try:
        return repr(float(name))
    except ValueError:
        return _BETWEEN.sub(" ", unicodedata.normalize("NFKC", name).casefold()).strip()


class ToldOnce:
    """Warns of labels for which there is something that cannot be measured, once of each.

    Args:
        text: the warning; `%s` is where the names stand.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._told: set[str] = set()

    def tell(self, names: Iterable[str]) -> None:
        """Warns of those of `names` that it has not warned of."""
        if new := [name for name in names if name not in self._told]:
            self._told.update(new)
            log.warning(self._text, shown(new))
