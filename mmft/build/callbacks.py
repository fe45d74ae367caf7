"""Builds Lightning callbacks from a config."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping

import lightning.pytorch as pl

from mmft.build.frozen import build_store, encoders_apart
from mmft.build.model import quantizes
from mmft.build.run import Run
from mmft.config import registry
from mmft.config.schema.augment import AugmentConfig
from mmft.config.schema.model import MODALITY
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.trainer import CheckpointConfig, EarlyStoppingConfig, EmaConfig, TrainerConfig
from mmft.config.schema.tune import FreezeConfig
from mmft.data.bad_rows import BadRows
from mmft.data.datamodule import VisionLanguageData
from mmft.data.splitting.names import splits_to_test
from mmft.errors import UserError
from mmft.run_folder import RunFolder
from mmft.tasks.base import Task
from mmft.tasks.generative import GenerativeTask
from mmft.tasks.metrics.names import lower_is_better
from mmft.training.callbacks.bad_rows import BadRowReport
from mmft.training.callbacks.checkpointing import Checkpointing
from mmft.training.callbacks.early_stopping import EarlyStopping
from mmft.training.callbacks.frozen_work import FrozenWork
from mmft.training.callbacks.gradient_accumulation import GradientAccumulation
from mmft.training.callbacks.layer_freezing import LayerFreezing, own_warmups, start_steps
from mmft.training.callbacks.learning_rate_warmup import LearningRateWarmup
from mmft.training.callbacks.lora_8bit import LoRA8bit
from mmft.training.callbacks.profiling import profiling
from mmft.training.callbacks.progress import progress
from mmft.training.callbacks.pruning import pruning
from mmft.training.callbacks.run_summary import RunSummary
from mmft.training.callbacks.stopping import StopOnSignal
from mmft.training.callbacks.time_limit import time_limit
from mmft.training.callbacks.validation_sample import ValidationSample
from mmft.training.callbacks.weight_averaging import WeightAveraging
from mmft.training.csv_log import CsvLog
from mmft.tuning.plan import TuningPlan

log = logging.getLogger(__name__)
_END = {True: "lowest", False: "highest"}


def monitor_of(config: CheckpointConfig, task: Task) -> tuple[str, bool]:
    """The metric that selects the best checkpoint, and whether lower is better.

    Raises:
        UserError: the task has no such metric.
    """
    name = (config.monitor or task.monitor).removeprefix("val/")
    allowed = sorted([*task.metric_names(), "loss"])
    if name not in allowed:
        raise UserError(
            f"checkpoint.monitor={config.monitor}: this task has no such metric. There are: {', '.join(allowed)}."
        )
    return name, lower_is_better(name, task.minimised)


def monitored(config: TrainConfig, task: Task, splits: Collection[str]) -> str | None:
    """The name of the metric that selects the best checkpoint, as `val/accuracy`; None without validation rows."""
    return f"val/{monitor_of(config.checkpoint, task)[0]}" if "val" in splits else None


def check_monitoring(config: TrainConfig, task: Task, splits: Collection[str]) -> None:
    """Checks the settings that select the best checkpoint, before the model is built, which is slow.

    Raises:
        UserError: with everything that the task or the splits lack.
    """
    wrong: list[str] = []
    try:
        monitor, minimised = monitor_of(config.checkpoint, task)
        if not type(task).__module__.startswith("mmft."):  # what mmft knows of its metrics may be nothing
            log.info("checkpoint.monitor: the best weights have the %s val/%s", _END[minimised], monitor)
    except UserError as error:
        wrong += error.messages
    wrong += [
        f"task={part.facts.type}: its metric {name} has higher_is_better=False, which is to be said of the task: "
        f"{type(part).__name__}.minimised"
        for part in task.parts.values()
        for name, metric in part.metrics().items(copy_state=False)
        if metric.higher_is_better is False and not lower_is_better(str(name), part.minimised)
    ]
    if "val" not in splits:
        keep, patience = config.checkpoint.keep, config.callbacks.early_stopping.patience
        if keep > 1:
            wrong.append(f"checkpoint.keep={keep}: there are no validation rows to select the best by.")
        if config.trainer.val_every_steps is not None:
            wrong.append(f"trainer.val_every_steps={config.trainer.val_every_steps}: there are no validation rows.")
        if isinstance(alphas := config.checkpoint.alpha, list) and len(alphas) > 1:
            wrong.append(f"checkpoint.alpha={alphas}: there are no validation rows to choose by.")
        if patience is not None:
            wrong.append(f"callbacks.early_stopping.patience={patience}: there are no validation rows.")
    if wrong:
        raise UserError(wrong)


def build_callbacks(
    run: Run, data: VisionLanguageData, task: Task, plan: TuningPlan, log: CsvLog, bad: BadRows
) -> list[pl.Callback]:
    """All callbacks in the order that Lightning calls them; the config has passed `check_monitoring`."""
    config, folder = run.config, run.folder
    monitor, minimised = monitor_of(config.checkpoint, task)
    joins = start_steps(plan, data.plan)
    _check_interval(config.trainer, data.plan.total)
    checkpointing = Checkpointing(
        folder.checkpoints,
        config.checkpoint.every_steps,
        config.checkpoint.every_minutes,
        monitor,
        minimised,
        log,
        config.checkpoint.keep,
        config.trainer.val_every_steps,
    )
    return [
        BadRowReport(bad),
        *_frozen_work(config, data, task, folder, joins),
        LayerFreezing(joins),
        LearningRateWarmup(registry.build(config.schedule), data.plan.total, own_warmups(plan, joins)),
        *_validation_sample(data, task, config.seed),
        GradientAccumulation(config.data.micro_batch_size, data.plan.batch_sizes, config.data.micro_batch_tokens),
        *_early_stopping(config.callbacks.early_stopping, monitor, minimised),
        *([LoRA8bit(folder)] if quantizes(config.tune) else []),
        *_weight_averaging(config.callbacks.ema),
        *(registry.build(own) for own in (config.callbacks.extra or {}).values()),
        RunSummary(folder, run.started),
        checkpointing,
        StopOnSignal(checkpointing, run.request),
        *pruning(folder.path, monitor, "val" in data.rows, folder.writes, config.trainer.val_every_steps is not None),
        *time_limit(config.trainer.max_time),
        *profiling(folder.path / "profile", config.callbacks.profile.steps, config.callbacks.profile.after),
        *progress(config.callbacks.progress if folder.writes else "none"),
    ]


def _validation_sample(data: VisionLanguageData, task: Task, seed: int) -> list[pl.Callback]:
    if not isinstance(task, GenerativeTask) or task.validation_rows is None or "val" not in data.rows:
        return []
    return [ValidationSample(data.datasets["val"].split.rows, task.validation_rows, seed)]


def _check_interval(config: TrainerConfig, steps: int) -> None:
    if config.val_every_steps is not None and config.val_every_steps > steps:
        raise UserError(
            f"trainer.val_every_steps={config.val_every_steps}: training has {steps} optimizer steps: there would be "
            f"no validation. Type {steps} or less"
        )


def _frozen_work(
    config: TrainConfig, data: VisionLanguageData, task: Task, folder: RunFolder, joins: Mapping[str, int]
) -> list[pl.Callback]:
    if not encoders_apart(config):
        return []
    return [
        FrozenWork(
            data,
            _to_be_kept(config, data, task),
            joins,
            build_store(config),
            config.cache,
            precision=config.trainer.precision,
            folder=folder,
        )
    ]


def _to_be_kept(config: TrainConfig, data: VisionLanguageData, task: Task) -> dict[str, dict[str, int]]:
    """How often each encoder reads the rows of each split whose rows are the same in each epoch."""
    plain, augment = vars(AugmentConfig()), config.data.augment
    changed = {name for name, value in vars(augment).items() if value != plain[name]}
    varies = {
        "image": bool(changed - set(augment.OF_TEXTS)),
        "text": bool(changed & set(augment.OF_TEXTS)) or task.captions_of is not None,
    }
    trainer, plan = config.trainer, data.plan
    of_steps = trainer.val_every_steps
    validations = plan.epochs // trainer.val_every_epochs if of_steps is None else plan.total // of_steps
    found = {}
    for encoder in encoders_apart(config):
        modality = MODALITY[encoder]
        passes = {"train": plan.epochs + 1, "val": validations + 1} | dict.fromkeys(splits_to_test(data.rows), 2)
        distils = config.model.auxiliary.distillation_weight > 0 and not isinstance(
            getattr(config.tune, encoder), FreezeConfig
        )  # from the images and texts themselves
        if distils or (modality == "text" and data.datasets["train"].others is not None):
            passes = {}
        elif varies[modality]:
            views = config.cache.views if modality == "image" else None
            passes["train"] = 0 if views is None else math.ceil(plan.epochs / views)
        found[encoder] = {split: count for split, count in passes.items() if count and split in data.rows}
    return found


def _weight_averaging(config: EmaConfig) -> list[pl.Callback]:
    return [] if config.decay is None else [WeightAveraging(config.decay, config.warmup)]


def _early_stopping(settings: EarlyStoppingConfig, monitor: str, minimised: bool) -> list[pl.Callback]:
    if settings.patience is None:
        return []
    return [EarlyStopping(monitor, minimised, settings.patience, settings.min_delta)]
