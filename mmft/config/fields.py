"""`field`: a dataclass field with bounds, for the schemas.

A field's type annotation says what a value may be (`int`, `float | None`, `Literal["a", "b"]`,
`list[str]`, `dict[int, int]`, another schema); bounds and the like go in its metadata, where
`mmft.config.validate` reads them. The string below a field is its documentation and is shown in help.
"""

from __future__ import annotations

import dataclasses
from typing import Any

REQUIRED: Any = dataclasses.MISSING


def field(
    default: Any = REQUIRED,
    *,
    factory: Any = REQUIRED,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """A field with inclusive (`ge`, `le`) or exclusive (`gt`, `lt`) bounds.

    A field without a default is required: the user must give it.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    return dataclasses.field(
        default=default,
        default_factory=factory,
        metadata={name: bound for name, bound in bounds.items() if bound is not None},
    )
