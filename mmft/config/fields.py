"""`field`: a dataclass field with bounds, for the schemas.

A field's type annotation defines the allowed values (`int`, `float | None`, `Literal["a", "b"]`, `list[str]`,
`dict[int, int]`, another schema). Bounds and rules are stored in its metadata, which `mmft.config.validate` and
`mmft.config.rules` read. The string below a field is its documentation and appears in the help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
    only_with: str | None = None,
    not_with: Mapping[str, str] | None = None,
    needs_val: bool | None = None,
    needs_trained_encoder: bool | None = None,
) -> Any:
    """A field with inclusive (`ge`, `le`) or exclusive (`gt`, `lt`) bounds, and rules.

    A field without a default is required. The rules (see `mmft.config.rules.shapes`) state which setting the field
    depends on, which settings it excludes, and whether it needs validation rows or an encoder that is trained.
    """
    metadata: dict[str, Any] = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata |= {"only_with": only_with, "not_with": not_with}
    metadata |= {"needs_val": needs_val, "needs_trained_encoder": needs_trained_encoder}
    return dataclasses.field(
        default=default,
        default_factory=factory,
        metadata={name: value for name, value in metadata.items() if value is not None},
    )
