"""Roles of columns, and messages about columns that the table lacks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from mmft.config.schema.data import ColumnsConfig, names_of
from mmft.errors import UserError

SHOWN = 20
"""Number of column names listed in a message."""


def roles(columns: ColumnsConfig) -> dict[str, list[str]]:
    """The fields of `columns` that name each column.

    Raises:
        UserError: neither an image nor a text column is given.
    """
    found: dict[str, list[str]] = {}
    for role in ("image", "text", "label", "id", "split", "weight", "group"):
        for name in names_of(getattr(columns, role)):
            found.setdefault(name, []).append(role)
    if columns.image is None and not names_of(columns.text):
        raise UserError("data.columns.image and data.columns.text are both null; give one of them, or both")
    return found


def check_names(names: Sequence[str], columns: ColumnsConfig, optional: Collection[str], where: str) -> None:
    """Reports all missing and duplicate columns at once.

    Args:
        names: the table's columns.
        columns: the roles of columns.
        optional: fields of `columns` whose column may be absent.
        where: the config key and the file, for messages.

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
    if messages:
        raise UserError(messages)


def _offer(name: str, names: Sequence[str]) -> str:
    """The closest names, then the first `SHOWN` of all."""
    lower = {other.strip().lower(): other for other in names}
    close = [lower[key] for key in get_close_matches(name.strip().lower(), list(lower), n=3, cutoff=0.5)]
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    hint = "" if len(names) > 1 or ";" not in shown else " (it is divided by ';': save it with commas, or tabs as .tsv)"
    return (f"nearest: {', '.join(close)}; " if close else "") + f"columns: {shown}{hint}"
