"""`logger`: where metrics, tables and the model go besides metrics.csv, which is always written."""

from __future__ import annotations

from dataclasses import dataclass

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class LoggerConfig(OptionConfig):
    """`logger`: where a run is logged besides metrics.csv, which is always written."""


@option("logger", "none", builds="mmft.training.loggers.base:RunLogger")
@dataclass(kw_only=True)
class NoLoggerConfig(LoggerConfig):
    """metrics.csv alone."""


@dataclass(kw_only=True)
class _WandbConfig(LoggerConfig):
    project: str | None = None
    """The wandb project; null: what `WANDB_PROJECT` says, else `mmft`."""
    entity: str | None = None
    """User or team; null: what `WANDB_ENTITY` says, else the login's own."""
    group: str | None = None
    """Runs that belong together; null: the sweep's folder, outside of a sweep what `WANDB_RUN_GROUP` says."""
    tags: list[str] = field(factory=list)
    """Tags of the run, for example `[baseline,small]`."""
    predictions: int = field(64, ge=0)
    """Test rows in the table of predictions, with their images, spread evenly over the split; 0: no table."""
    log_model: bool = False
    """The finished model's folder becomes an artifact."""


@option("logger", "wandb", builds="mmft.training.loggers.wandb_logger:online")
@dataclass(kw_only=True)
class WandbConfig(_WandbConfig):
    """Weights & Biases; needs `wandb login` once."""


@option("logger", "wandb_offline", builds="mmft.training.loggers.wandb_logger:offline")
@dataclass(kw_only=True)
class WandbOfflineConfig(_WandbConfig):
    """Weights & Biases without a network; `wandb sync` uploads later what is in the run folder."""


@option("logger", "tensorboard", builds="mmft.training.loggers.tensorboard_logger:TensorBoardLogger")
@dataclass(kw_only=True)
class TensorBoardConfig(LoggerConfig):
    """TensorBoard's event files in the run folder; needs `pip install tensorboard`."""

    predictions: int = field(64, ge=0)
    """Test rows among the predictions, with their images, spread evenly over the split; 0: none."""
