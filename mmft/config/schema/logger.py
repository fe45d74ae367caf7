"""`logger`: where metrics, tables and the model are logged besides metrics.csv, which is always written."""

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
    """metrics.csv only."""


@dataclass(kw_only=True)
class _WandbConfig(LoggerConfig):
    project: str | None = None
    """The wandb project; null: `WANDB_PROJECT`, or `mmft` if that is not set."""
    entity: str | None = None
    """User or team; null: `WANDB_ENTITY`, or the default of your login."""
    group: str | None = None
    """Group of runs; null: the sweep's folder, or `WANDB_RUN_GROUP` outside of a sweep."""
    tags: list[str] = field(factory=list)
    """Tags of the run, for example `[baseline,small]`."""
    predictions: int = field(64, ge=0)
    """Test rows in the table of predictions, with images, spread evenly over the split; 0: no table."""
    log_model: bool = False
    """Upload the final model's folder as an artifact."""


@option("logger", "wandb", builds="mmft.training.loggers.wandb_logger:online")
@dataclass(kw_only=True)
class WandbConfig(_WandbConfig):
    """Weights & Biases; needs `wandb login` once."""


@option("logger", "wandb_offline", builds="mmft.training.loggers.wandb_logger:offline")
@dataclass(kw_only=True)
class WandbOfflineConfig(_WandbConfig):
    """Weights & Biases without a network; `wandb sync` uploads from the run folder later."""


@option("logger", "tensorboard", builds="mmft.training.loggers.tensorboard_logger:TensorBoardLogger")
@dataclass(kw_only=True)
class TensorBoardConfig(LoggerConfig):
    """TensorBoard event files in the run folder; needs `pip install tensorboard`."""

    predictions: int = field(64, ge=0)
    """Test rows whose predictions are logged, with images, spread evenly over the split; 0: none."""
