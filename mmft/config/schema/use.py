"""The keys of commands that use the model of a run, or of a pretrained pair in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmft.config.fields import field
from mmft.config.schema.as_in_run import RunData, ServedData
from mmft.config.schema.cache import CacheConfig
from mmft.config.schema.paths import ModelPathsConfig, PathsConfig
from mmft.config.schema.trainer import DeviceConfig


@dataclass(kw_only=True)
class PairConfig:
    """`model`: a pretrained pair in place of a run."""

    pair: str | None = None
    """A pretrained pair as it is, without any training, in place of `run`: a folder or a hub name, as in training."""


@dataclass(kw_only=True)
class ModelUseConfig:
    """The keys of every command that uses the model of a run."""

    run: str | None = None
    """A run folder, or `last`: the newest run under `paths.runs`."""
    model: PairConfig = field(factory=PairConfig)
    """A pretrained pair in place of a run."""
    paths: PathsConfig = field(factory=PathsConfig)
    """Where runs are read from."""
    data: Any = field(factory=ServedData)
    """How rows are read; keys left null are as in the run."""
    trainer: DeviceConfig = field(factory=DeviceConfig)
    """The device to run on."""


@dataclass(kw_only=True)
class UseConfig(ModelUseConfig):
    """The keys of every command that applies a run to the rows of a table."""

    paths: ModelPathsConfig = field(factory=ModelPathsConfig)
    """Where runs are read from, and what frozen layers compute."""
    cache: CacheConfig = field(factory=CacheConfig)
    """Whether what frozen layers compute of the rows is read from the store and kept there; `always`: also what a
    trained encoder computes, for the next time that this run is applied to these rows."""
    data: Any = field(factory=RunData)
    """The rows; keys left null are as in the run."""
