"""`paths`: where runs and the store of frozen work are."""

from __future__ import annotations

from dataclasses import dataclass

from mmft.config.registry import section


@dataclass(kw_only=True)
class PathsConfig:
    """`paths`: where things are written."""

    runs: str = "runs"
    """Folder that holds the run folders."""


@section("paths")
@dataclass(kw_only=True)
class ModelPathsConfig(PathsConfig):
    """`paths` of the commands that run a model."""

    cache: str | None = None
    """Folder of what frozen layers compute, shared by all runs; null: `mmft` in `$XDG_CACHE_HOME`, or in `~/.cache`."""
