"""`Run`: what every part of one `mmft train` is made from and writes to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmft.clock import Spent
from mmft.config.compose import Composed
from mmft.config.paths import rebase
from mmft.config.schema import TrainConfig
from mmft.run_folder import RunFolder
from mmft.signals import StopRequest
from mmft.training.loggers.base import RunLogger


@dataclass(frozen=True)
class Run:
    """One run of this process; each rank of a run has its own.

    Attributes:
        composed: the config as it was composed, paths as typed.
        folder: where it writes; a rank but the first writes nothing.
        base: what relative paths of the config are relative to.
        started: when it began.
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
        """The config with paths as typed, which is what the run folder keeps."""
        config: TrainConfig = self.composed.config
        return config

    @property
    def config(self) -> TrainConfig:
        """The same with absolute paths, which is what everything is built from."""
        config: TrainConfig = rebase(self.typed, self.base)
        return config

    def write_config(self) -> None:
        """Writes config.yaml and overrides.yaml, automatic choices as they have been made so far."""
        self.folder.write_config(self.on_disk(), self.composed.typed, self.composed.choices)

    def on_disk(self) -> dict[str, object]:
        """What config.yaml holds."""
        return self.composed.resolved_for_disk() | {"working_directory": str(self.base)}
