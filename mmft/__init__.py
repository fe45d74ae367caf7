"""mmft: fine-tunes a pretrained image encoder and a pretrained text encoder together on rows of images and text."""

from __future__ import annotations

import random
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmft.launch.from_python import check, compose, runs, sweep, train
    from mmft.run.loaded_model import load
    from mmft.run.pretrained_pair import load_pair

__version__ = "0.1.0"
__all__ = ["check", "compose", "load", "load_pair", "runs", "sweep", "train"]


_HOMES = {
    "check": "mmft.launch.from_python",
    "compose": "mmft.launch.from_python",
    "load": "mmft.run.loaded_model",
    "load_pair": "mmft.run.pretrained_pair",
    "runs": "mmft.launch.from_python",
    "sweep": "mmft.launch.from_python",
    "train": "mmft.launch.from_python",
}


def __dir__() -> list[str]:
    """What there is to call."""
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    """Imports a function of `__all__`, and torch with it, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mmft' has no attribute {name!r}")
    state = random.getstate()
    try:
        return getattr(import_module(_HOMES[name]), name)
    finally:
        random.setstate(state)  # Lightning draws as it is imported
