"""What must be true between keys."""

from __future__ import annotations

from typing import Any

from mmft.config.validate import Problem


def check(config: Any, bad: set[str]) -> list[Problem]:
    """All problems between the keys of a config."""
    return []
