"""From a config to objects: the only place that instantiates what a config names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger
from torch import nn

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
from mmft.config.schema.logger import LoggerConfig
from mmft.config.schema.model import ModelConfig
from mmft.config.schema.optim import OptimConfig
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.task import TaskConfig
from mmft.config.schema.trainer import CheckpointConfig, EmaConfig, TrainerConfig
from mmft.config.schema.tune import TuneConfig
from mmft.data.bad_rows import BadRows
from mmft.data.datamodule import VisionLanguageData
from mmft.data.order import BatchSizes, StepPlan
from mmft.data.splits import Split
from mmft.errors import UserError
from mmft.models.image_encoder import build_image_encoder
from mmft.models.recompute import recompute_blocks
from mmft.models.source import Source
from mmft.models.text_encoder import build_text_encoder
from mmft.models.vision_language_model import TOWERS, VisionLanguageModel, set_dropout
from mmft.ranks import started
from mmft.run_folder import RunFolder
from mmft.signals import StopRequest
from mmft.tasks.base import Task
from mmft.training.checkpoint import FolderCheckpointIO
from mmft.training.csv_log import CsvLog
from mmft.training.loggers.base import RunLogger
from mmft.training.module import FineTuning
from mmft.training.strategies import ShardedModel, SummedGradients
from mmft.tuning.methods.base import TuningMethod
from mmft.tuning.plan import Rates, TuningPlan, make_plan


def build_task(config: TaskConfig) -> Task:
    """The task; its `fit` or `load_state` comes next."""
    task: Task = registry.build(config)
    return task


def build_model(
    config: ModelConfig, outputs: int, seed: int, sources: Mapping[str, Source] | None = None
) -> VisionLanguageModel:
    """The model, on the CPU, in float32.

    Args:
        config: `model`.
        outputs: C, what the task needs of the head.
        seed: seed of everything that starts from random weights.
        sources: where the encoders are, if that is known already.
    """
    torch.manual_seed(seed)
    known = sources or {}
    image = build_image_encoder(**registry.arguments(config.image_encoder), source=known.get("image_encoder"))
    text = build_text_encoder(**registry.arguments(config.text_encoder), source=known.get("text_encoder"))
    torch.manual_seed(seed)  # the same fusion and head whatever the encoders drew
    fusion = registry.build(config.fusion, image=image.widths, text=text.widths)
    model = VisionLanguageModel(image, text, fusion, nn.Linear(fusion.width, outputs))
    if config.dropout is not None:
        set_dropout(model, config.dropout)
    return model.train()


def build_plan(config: TrainConfig, model: VisionLanguageModel, changed: Iterable[str] = ()) -> TuningPlan:
    """What is trained; applied to the model.

    Args:
        config: the whole config.
        model: the model.
        changed: towers whose weights come from another run.
    """
    optim = config.optim
    methods = apply_tuning(config, model)
    plan = make_plan(model, methods, Rates(optim.lr, optim.head_lr, optim.layer_decay, optim.weight_decay))
    plan.changed = {tower for tower in methods if not getattr(config.model, tower).pretrained} | set(changed)
    return plan


def build_methods(tune: TuneConfig) -> dict[str, TuningMethod]:
    """The tuning method of each tower; a key that it leaves null is as in `tune` itself."""
    found: dict[str, TuningMethod] = {}
    for tower in TOWERS:
        own = getattr(tune, tower)
        arguments = {name: getattr(tune, name, None) if v is None else v for name, v in registry.arguments(own).items()}
        found[tower] = registry.class_of(own)(key=f"tune.{tower}", **arguments)
    return found


def apply_tuning(config: TrainConfig, model: VisionLanguageModel) -> dict[str, TuningMethod]:
    """Puts into each tower what its tuning method adds; gives the methods.

    Raises:
        UserError: a method finds nothing to be applied to.
    """
    methods = build_methods(config.tune)
    for tower, method in methods.items():
        torch.manual_seed(config.seed)  # what a method adds is the same whatever was drawn before
        method.apply(getattr(model, tower))
    return methods


def build_data(
    config: TrainConfig, splits: Mapping[str, Split], model: VisionLanguageModel, task: Task
) -> VisionLanguageData:
    """The data module, its texts tokenised."""
    schedule = config.callbacks.gradient_accumulation.schedule or {0: config.data.batch_size}
    plan = StepPlan(len(splits["train"]), BatchSizes(schedule), config.trainer.max_epochs, config.trainer.max_steps)
    return VisionLanguageData(
        splits,
        config.data,
        tokenizer=model.text_encoder.tokenizer,
        max_length=model.text_encoder.max_length,
        image_size=model.image_encoder.image_size,
        encode=task.encode,
        seed=config.seed,
        plan=plan,
        classes_of=task.classes,
    )


def build_module(config: TrainConfig, model: VisionLanguageModel, task: Task, plan: TuningPlan) -> FineTuning:
    """The LightningModule; from here on the blocks of a model under gradient checkpointing are computed twice."""
    if config.trainer.gradient_checkpointing:
        recompute_blocks(model)
    # The fields of the group's base are the plan's and the step's; an option's own are its optimizer's.
    return FineTuning(
        model,
        task,
        plan,
        lambda groups: registry.build(config.optim, but=OptimConfig, groups=groups),
        config.optim.clip_norm,
        config.seed,
        config.trainer.log_every_steps,
        shards=config.trainer.strategy == "fsdp",
    )


def monitor_of(config: CheckpointConfig, task: Task) -> tuple[str, bool]:
    """The metric that chooses the best checkpoint, and whether it is better when lower.

    Raises:
        UserError: the task has no such metric.
    """
    name = (config.monitor or task.monitor).removeprefix("val/")
    allowed = sorted([*(str(k) for k in task.metrics() if k != "confusion_matrix"), "loss"])
    if name not in allowed:
        raise UserError(
            f"checkpoint.monitor={config.monitor}: this task has no such metric. There are: {', '.join(allowed)}."
        )
    return name, name in task.minimised


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


def build_logger(config: LoggerConfig) -> RunLogger:
    """The logger besides metrics.csv; its `start` comes next."""
    logger: RunLogger = registry.build(config)
    return logger


def build_trainer(
    config: TrainConfig,
    folder: RunFolder,
    data: VisionLanguageData,
    callbacks: list[pl.Callback],
    loggers: list[Logger],
) -> pl.Trainer:
    """Lightning's Trainer. Clipping and accumulation are the step's own, checkpoints our callback's."""
    settings, ranks = config.trainer, started()
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=ranks.local_world,
        num_nodes=ranks.nodes,
        strategy=_strategy(settings, ranks.world),
        precision=settings.precision,  # type: ignore[arg-type] # `choose_hardware` has replaced `auto`
        max_epochs=data.plan.epochs,
        check_val_every_n_epoch=settings.val_every_epochs,
        limit_val_batches=None if "val" in data.rows else 0,
        reload_dataloaders_every_n_epochs=0 if data.plan.is_even else 1,
        logger=loggers,
        callbacks=callbacks,
        plugins=[FolderCheckpointIO()],
        default_root_dir=folder.path,
        enable_checkpointing=False,
        enable_progress_bar=any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=settings.strategy != "fsdp",  # weights put together in it could not be trained with afterwards
    )


def _strategy(config: TrainerConfig, ranks: int) -> Any:
    """How Lightning runs this number of ranks."""
    if config.strategy == "fsdp":
        return ShardedModel(ranks, config.rank_timeout)
    return "auto" if ranks == 1 else SummedGradients(config.rank_timeout)


def preload() -> None:
    """Imports what torch and its friends would otherwise import inside the first step."""
    with clock.importing():
        import timm  # noqa: F401
        import torch._dynamo  # noqa: F401 - torch.optim asks for it when the first optimizer is made
        import transformers.models.auto.modeling_auto  # noqa: F401
