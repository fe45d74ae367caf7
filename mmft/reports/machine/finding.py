"""`Finding`: one line of `mmft doctor`."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what it is.
        value: what was found, on one short line.
        wrong: what is wrong with it and what to type; None: nothing.
        fatal: whether training cannot work because of it.
    """

    name: str
    value: str
    wrong: str | None = None
    fatal: bool = False


def size(count: float) -> str:
    """Bytes in words: `7.6 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
