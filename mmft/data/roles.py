"""Roles of columns, and messages about columns that the table lacks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from mmft.config.schema.data import ColumnsConfig, names_of
from mmft.errors import UserError

SHOWN = 20
"""Number of column names listed in a message."""

_BRACES = re.compile(r"\{([^{}]+)\}")


def is_template(name: str) -> bool:
    """Whether `data.columns.image` is a template of paths, such as `images/{shop}_{id}.jpg`."""
    return _BRACES.search(name) is not None


def named_in(template: str) -> list[str]:
    """The columns in the braces of a template."""
    return list(dict.fromkeys(_BRACES.findall(template)))


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with each column's value in its place."""
    return _BRACES.sub(lambda found: values[found[1]], template)


def roles(columns: ColumnsConfig) -> dict[str, list[str]]:
    """The fields of `columns` that name each column.

    Raises:
        UserError: neither an image nor a text column is given.
    """
    found: dict[str, list[str]] = {}
    for role in ("image", "text", "label", "id", "split", "weight", "group"):
        for given in names_of(getattr(columns, role)):
            for name in named_in(given) if role == "image" and is_template(given) else [given]:
                found.setdefault(name, []).append(role)
    if columns.image is None and not names_of(columns.text):
        raise UserError("data.columns.image and data.columns.text are both null; give one of them, or both")
    return found


def check_names(
    names: Sequence[str], columns: ColumnsConfig, optional: Collection[str], where: str, keep: Collection[str] = ()
) -> None:
    """Reports all missing and duplicate columns at once.

    Args:
        names: the table's columns.
        columns: the roles of columns.
        optional: fields of `columns` whose column may be absent.
        where: the config key and the file, for messages.
        keep: other columns that are needed.

    Raises:
        UserError: a required column is missing, or two columns have its name.
    """
    messages: list[str] = []
    for name, found in roles(columns).items():
        needed = [role for role in found if role not in optional]
        if name not in names and needed:
            messages.append(f"data.columns.{needed[0]}={name}: {where} has no such column; {_offer(name, names)}")
        elif names.count(name) > 1:
            messages.append(f"data.columns.{found[0]}={name}: {where} has {names.count(name)} columns of that name")
    lacking = [name for name in keep if name not in names]
    messages += [f"keep={name}: {where} has no such column; {_offer(name, names)}" for name in lacking]
    if messages:
        raise UserError(messages)


def _offer(name: str, names: Sequence[str]) -> str:
    """The closest names, then the first `SHOWN` of all."""
    lower = {other.strip().lower(): other for other in names}
    close = [lower[key] for key in get_close_matches(name.strip().lower(), list(lower), n=3, cutoff=0.5)]
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    hint = "" if len(names) > 1 else " (if these are several, type data.reading.separator=CHARACTER)"
    return (f"nearest: {', '.join(close)}; " if close else "") + f"columns: {shown}{hint}"
