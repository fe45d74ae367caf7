"""Serialises a job for the ranks that train it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.config.compose import Composed, recompose
from mmft.config.plugins import allow_code, allowed


def packed(composed: Composed, folder: Path) -> dict[str, Any]:
    """The config and the run folder as values for JSON."""
    values = composed.resolved_for_disk()
    return {
        "values": values,
        "typed": composed.typed,
        "choices": composed.choices,
        "folder": str(folder.absolute()),
        "allow_code": allowed(),
    }


def unpacked(job: Mapping[str, Any]) -> tuple[Composed, Path]:
    """Restores what `packed` was given.

    Raises:
        UserError: the config is invalid on this machine, such as a missing file.
    """
    if job["allow_code"]:  # as on this process's own command line
        allow_code()
    return recompose("train", job["values"], job["typed"], job["choices"]), Path(job["folder"])
