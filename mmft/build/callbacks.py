"""From a config to Lightning's callbacks."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping

from mmft import clock
from mmft.callbacks.bad_rows import BadRowReport
from mmft.callbacks.checkpointing import Checkpointing
from mmft.callbacks.gradient_accumulation import GradientAccumulation
from mmft.callbacks.layer_freezing import LayerFreezing, own_warmups, start_steps
from mmft.callbacks.learning_rate_warmup import LearningRateWarmup
from mmft.callbacks.lora_8bit import LoRA8bit
from mmft.callbacks.profiling import profiling
from mmft.callbacks.progress import progress
from mmft.callbacks.pruning import pruning
from mmft.callbacks.run_summary import RunSummary
from mmft.callbacks.stopping import StopOnSignal
from mmft.callbacks.time_limit import time_limit
from mmft.callbacks.weight_averaging import WeightAveraging
from mmft.config import registry
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.trainer import CheckpointConfig, EmaConfig
from mmft.data.bad_rows import BadRows
from mmft.data.datamodule import VisionLanguageData
from mmft.errors import UserError
from mmft.metric_names import lower_is_better
from mmft.run_folder import RunFolder
from mmft.signals import StopRequest
from mmft.tasks.base import Task
from mmft.training.csv_log import CsvLog
from mmft.tuning.plan import TuningPlan


def monitor_of(config: CheckpointConfig, task: Task) -> tuple[str, bool]:
    """The metric that chooses the best checkpoint, and whether it is better when lower.

    Raises:
        UserError: the task has no such metric.
    """
    name = (config.monitor or task.monitor).removeprefix("val/")
    allowed = sorted([*task.metric_names(), "loss"])
    if name not in allowed:
        raise UserError(
            f"checkpoint.monitor={config.monitor}: this task has no such metric. There are: {', '.join(allowed)}."
        )
    return name, lower_is_better(name)


def build_callbacks(
    config: TrainConfig,
    folder: RunFolder,
    data: VisionLanguageData,
    task: Task,
    plan: TuningPlan,
    log: CsvLog,
    bad: BadRows,
    job: clock.Spent,
    request: StopRequest,
) -> list[pl.Callback]:
    """All callbacks, in the order in which Lightning calls them."""
    monitor, minimised = monitor_of(config.checkpoint, task)
    joins = start_steps(plan, data.plan)
    checkpointing = Checkpointing(
        folder.checkpoints,
        config.checkpoint.every_steps,
        config.checkpoint.every_minutes,
        monitor,
        minimised,
        log,
        _keep(config.checkpoint, data),
    )
    return [
        BadRowReport(bad),
        LayerFreezing(joins),
        LearningRateWarmup(registry.build(config.schedule), data.plan.total, own_warmups(plan, joins)),
        GradientAccumulation(config.data.micro_batch_size, data.plan.batch_sizes),
        *_early_stopping(config, monitor, minimised, data),
        *([LoRA8bit(folder)] if {"lora_8bit", "lora_4bit"} & set(plan.methods.values()) else []),
        *_weight_averaging(config.callbacks.ema),
        RunSummary(folder, job),
        checkpointing,
        StopOnSignal(checkpointing, request),
        *pruning(folder.path, monitor, "val" in data.rows, folder.writes),
        *time_limit(config.trainer.max_time),
        *profiling(folder.path / "profile", config.callbacks.profile.steps, config.callbacks.profile.after),
        *progress(config.callbacks.progress if folder.writes else "none"),
    ]


def _keep(config: CheckpointConfig, data: VisionLanguageData) -> int:
    """How many of the best checkpoints are kept."""
    if config.keep > 1 and "val" not in data.rows:
        raise UserError(f"checkpoint.keep={config.keep}: there are no validation rows to tell the best by.")
    return config.keep


def _weight_averaging(config: EmaConfig) -> list[pl.Callback]:
    return [] if config.decay is None else [WeightAveraging(config.decay, config.warmup)]


def _early_stopping(config: TrainConfig, monitor: str, minimised: bool, data: VisionLanguageData) -> list[pl.Callback]:
    settings = config.callbacks.early_stopping
    if settings.patience is None:
        return []
    if "val" not in data.rows:
        raise UserError(f"callbacks.early_stopping.patience={settings.patience}: there are no validation rows.")
    mode = "min" if minimised else "max"
    return [
        EarlyStopping(
            f"val/{monitor}",
            settings.min_delta,
            settings.patience,
            mode=mode,
            check_finite=False,
            check_on_train_epoch_end=False,  # after validation, so that the checkpoint of the epoch knows of it
        )
    ]
