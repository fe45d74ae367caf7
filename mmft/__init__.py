"""mmft: fine-tunes a pretrained image encoder and a pretrained text encoder together on rows of images and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmft.runs.loaded_model import load
    from mmft.runs.pretrained_pair import load_pair

__version__ = "0.1.0"
__all__ = ["load", "load_pair"]


def __getattr__(name: str) -> Any:
    """Imports `load` or `load_pair`, and torch with it, on first use."""
    if name == "load":
        from mmft.runs.loaded_model import load

        return load
    if name == "load_pair":
        from mmft.runs.pretrained_pair import load_pair

        return load_pair
    raise AttributeError(f"module 'mmft' has no attribute {name!r}")
