"""timm's vision transformers as those of transformers that compute the same."""

from __future__ import annotations

from typing import Any


def as_transformers(encoder: Any) -> Any:
    """The model of transformers that an image encoder is.

    Raises:
        ValueError: transformers has no such model.
    """
    if hasattr(encoder.backbone, "config"):
        return encoder.backbone
    raise ValueError("the image encoder is timm's")
