"""Roles of columns, and messages about columns that the table lacks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from mmft.config.schema.data import ColumnsConfig, names_of
from mmft.errors import UserError

SHOWN = 20
"""Number of column names listed in a message."""

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
_TEMPLATES = ("image", "text", "label")  # the roles that a template can have


def is_template(name: str) -> bool:
    """Whether `name` is made of columns in braces, such as `images/{shop}_{id}.jpg`, and not a column's name."""
    return bool(named_in(name))


def named_in(template: str) -> list[str]:
    """The columns in the braces of a template."""
    return list(dict.fromkeys(found for found in _BRACES.findall(template) if found))


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with each column's value in its place; `{{` and `}}` are braces."""
    return _BRACES.sub(lambda found: values[found[1]] if found[1] else found[0][0], template)


def roles(columns: ColumnsConfig, names: Collection[str] | None = None) -> dict[str, list[str]]:
    """The fields of `columns` that name each column.

    Args:
        columns: the roles of columns.
        names: the table's columns, of which one with the name of a template is meant by it; None: not known, so that a
            template stands for its columns and for such a one.

    Raises:
        UserError: neither an image nor a text column is given.
    """
    found: dict[str, list[str]] = {}
    for role in ("image", "text", "label", "messages", "id", "split", "weight", "group"):
        given = getattr(columns, role)
        for name in names_of(given):
            made = role in _TEMPLATES and is_template(name) and not (role == "label" and isinstance(given, list))
            parts = named_in(name) if made and name not in (names or ()) else []
            for one in [*parts, *([name] if not parts or names is None else [])]:
                found.setdefault(one, []).append(role)
    if columns.image is None and columns.messages is None and not names_of(columns.text):
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
    for name, found in roles(columns, names).items():
        needed = [role for role in found if role not in optional]
        if name not in names and needed:
            messages.append(
                f"data.columns.{needed[0]}={name}: {where} has no such column; {_offer(name, names, where)}"
            )
        elif names.count(name) > 1:
            messages.append(f"data.columns.{found[0]}={name}: {where} has {names.count(name)} columns of that name")
    lacking = [name for name in keep if name not in names]
    messages += [f"keep={name}: {where} has no such column; {_offer(name, names, where)}" for name in lacking]
    if messages:
        raise UserError(messages)


def _offer(name: str, names: Sequence[str], where: str) -> str:
    """The closest names, then the first `SHOWN` of all."""
    lower = {other.strip().lower(): other for other in names}
    close = [lower[key] for key in get_close_matches(name.strip().lower(), list(lower), n=3, cutoff=0.5)]
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    hint = (
        "" if len(names) > 1 or "=" not in where else " (if these are several, type data.reading.separator=CHARACTER)"
    )
    return (f"nearest: {', '.join(close)}; " if close else "") + f"columns: {shown}{hint}"
