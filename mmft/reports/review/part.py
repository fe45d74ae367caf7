"""A part of a review: sentences and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """Sentences and a table under a title.

    Attributes:
        title: above it.
        sentences: one a line.
        header: of the table.
        rows: of the table; may be empty.
    """

    title: str
    sentences: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
