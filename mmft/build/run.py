"""`Run`: the inputs and outputs that all parts of one `mmft train` share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmft.clock import Spent
from mmft.config.compose import Composed
from mmft.config.paths import rebase
from mmft.config.schema.root import TrainConfig
from mmft.run_folder import RunFolder
from mmft.signals import StopRequest
from mmft.training.loggers.base import RunLogger


@dataclass(frozen=True)
class Run:
    """One run of this process; each rank of a run has its own.

    Attributes:
        composed: the composed config, with paths as typed.
        folder: where it writes; only the first rank does.
        base: base of the config's relative paths.
        started: when it started.
        request: by which a signal asks it to stop.
        logger: where metrics go besides metrics.csv.
    """

    composed: Composed
    folder: RunFolder
    base: Path
    started: Spent
    request: StopRequest
    logger: RunLogger

    @property
    def typed(self) -> TrainConfig:
        """The config with paths as typed, as kept in the run folder."""
        config: TrainConfig = self.composed.config
        return config

    @cached_property
    def config(self) -> TrainConfig:
        """The config with absolute paths, from which everything is built; a copy, made once hardware is chosen."""
        config: TrainConfig = rebase(self.typed, self.base)
        return config

    def write_config(self) -> None:
        """Writes config.yaml and overrides.yaml, with automatic choices as resolved so far."""
        self.folder.write_config(self.on_disk(), self.composed.typed, self.composed.choices)

    def on_disk(self) -> dict[str, object]:
        """The contents of config.yaml."""
        return self.composed.resolved_for_disk() | {"working_directory": str(self.base)}
