"""mmft: fine-tunes a pretrained image encoder and a pretrained text encoder together on rows of images and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmft.runs.loaded_model import load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Imports `load`, and torch with it, on first use."""
    if name == "load":
        from mmft.runs.loaded_model import load

        return load
    raise AttributeError(f"module 'mmft' has no attribute {name!r}")
