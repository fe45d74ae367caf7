"""A job on its way from the process that composed it to the ranks that train it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.config.compose import Composed, recompose


def packed(composed: Composed, folder: Path) -> dict[str, Any]:
    """The config and the run folder as JSON can hold them."""
    values = composed.resolved_for_disk()
    return {"values": values, "typed": composed.typed, "choices": composed.choices, "folder": str(folder.absolute())}


def unpacked(job: Mapping[str, Any]) -> tuple[Composed, Path]:
    """What `packed` was given.

    Raises:
        UserError: the config is wrong on this machine: a file is not there.
    """
    return recompose("train", job["values"], job["typed"], job["choices"]), Path(job["folder"])
