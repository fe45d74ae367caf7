"""`Diagnosis`: one line of `mmft doctor`."""

from __future__ import annotations

from typing import NamedTuple


class Diagnosis(NamedTuple):
    """The result of one check.

    Attributes:
        name: what was checked.
        value: what was found, on one short line.
        wrong: what is wrong and what to type; None if nothing is.
        fatal: whether it makes training impossible.
    """

    name: str
    value: str
    wrong: str | None = None
    fatal: bool = False


def size(count: float) -> str:
    """Formats bytes: `7.6 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
