"""Builds data module, LightningModule, loggers and Trainer from a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger

from mmft import clock
from mmft.config import registry
from mmft.config.schema.logger import LoggerConfig
from mmft.config.schema.model import MODALITY
from mmft.config.schema.optim import OptimConfig
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.trainer import TrainerConfig
from mmft.config.schema.tune import FreezeConfig
from mmft.data.datamodule import VisionLanguageData
from mmft.data.order import BatchSizes, StepPlan
from mmft.data.splitting.splits import Split
from mmft.data.targets import Encode
from mmft.errors import UserError
from mmft.models.recompute import recompute_blocks
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.ranks import started
from mmft.run_folder import RunFolder
from mmft.tasks.base import Task
from mmft.training import extending
from mmft.training.checkpoint import FolderCheckpointIO
from mmft.training.distillation import Distillation
from mmft.training.half_precision import LossScale, precision_plugin
from mmft.training.loggers.base import RunLogger
from mmft.training.module import FineTuning
from mmft.training.objective import Objective
from mmft.training.parallel.strategies import ShardedModel, SummedGradients
from mmft.training.resuming import ResumePoint
from mmft.training.schedules import Schedule
from mmft.tuning.plan import TuningPlan

_ALIGNMENT_WEIGHT = 0.1


def build_data(
    config: TrainConfig, splits: Mapping[str, Split], model: VisionLanguageModel, task: Task
) -> VisionLanguageData:
    """The data module, with texts tokenised."""
    schedule = config.callbacks.gradient_accumulation.schedule or {0: config.data.batch_size}
    plan = StepPlan(len(splits["train"]), BatchSizes(schedule), config.trainer.max_epochs, config.trainer.max_steps)
    return VisionLanguageData(
        splits,
        config.data,
        tokenizer=model.text_encoder.tokenizer,
        max_length=model.text_encoder.max_length,
        image_size=model.image_encoder.image_size,
        encode=Encode.of(task, identities=config.model.auxiliary.alignment == "contrastive"),
        seed=config.seed,
        plan=plan,
        classes_of=task.classes,
        views=config.cache.views,
        transforms=[registry.build(own) for own in (config.data.augment.extra or {}).values()],
    )


def build_distillation(config: TrainConfig, model: VisionLanguageModel) -> Distillation | None:
    """The feature distillation, if any, from the encoders as they are: tuning methods are not applied yet.

    Raises:
        UserError: no encoder that is trained and has an input began pretrained.
    """
    weight = config.model.auxiliary.distillation_weight
    if not weight:
        return None
    starts = {
        modality: getattr(model, encoder)
        for encoder, modality in MODALITY.items()
        if config.reads(modality)
        and model.began_pretrained(encoder)
        and not isinstance(getattr(config.tune, encoder), FreezeConfig)
    }
    if not starts:
        raise UserError(
            "model.auxiliary.distillation_weight: no encoder that is trained has a pretrained start. Leave it out"
        )
    return Distillation(starts, weight)


def build_module(
    config: TrainConfig,
    model: VisionLanguageModel,
    task: Task,
    plan: TuningPlan,
    distillation: Distillation | None = None,
) -> FineTuning:
    """The LightningModule; enables gradient checkpointing if configured."""
    if config.trainer.gradient_checkpointing:
        recompute_blocks(model)
    # Fields of the group's base class belong to plan and step, an option's own to its optimizer.
    return FineTuning(
        model,
        task,
        build_objective(config, task, distillation),
        plan,
        lambda groups: registry.build(config.optim, but=OptimConfig, groups=groups),
        config.optim.clip_norm,
        config.seed,
        config.trainer.log_every_steps,
        shards=config.trainer.strategy == "fsdp",
        modality_dropout=config.model.modality_dropout,
        loss_scale=LossScale() if config.trainer.precision == "16-mixed" else None,
    )


def build_objective(config: TrainConfig, task: Task, distillation: Distillation | None = None) -> Objective:
    """The training objective."""
    auxiliary = config.model.auxiliary
    weight = _ALIGNMENT_WEIGHT if auxiliary.alignment_weight is None else auxiliary.alignment_weight
    return Objective(task, auxiliary.modality_weight, auxiliary.alignment, weight, distillation)


def build_logger(config: LoggerConfig) -> RunLogger:
    """The logger besides metrics.csv; call its `start` next."""
    logger: RunLogger = registry.build(config)
    return logger


def build_trainer(
    config: TrainConfig,
    folder: RunFolder,
    data: VisionLanguageData,
    callbacks: list[pl.Callback],
    loggers: list[Logger],
) -> pl.Trainer:
    """Lightning's Trainer. Clipping and accumulation happen in the step, checkpoints in our callback."""
    settings, ranks = config.trainer, started()
    device = "cuda" if settings.accelerator == "gpu" else "cpu"  # `choose_hardware` has replaced `auto`
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=ranks.local_world,
        num_nodes=ranks.nodes,
        strategy=_strategy(settings, ranks.world),
        max_epochs=data.plan.epochs,
        check_val_every_n_epoch=settings.val_every_epochs if settings.val_every_steps is None else None,
        val_check_interval=settings.val_every_steps,
        limit_val_batches=None if "val" in data.rows else 0,
        reload_dataloaders_every_n_epochs=0 if data.plan.is_even else 1,
        logger=loggers,
        callbacks=callbacks,
        plugins=[FolderCheckpointIO(), precision_plugin(settings.precision, device)],
        default_root_dir=folder.path,
        enable_checkpointing=False,
        enable_progress_bar=any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=settings.strategy != "fsdp",  # weights gathered in inference mode could not be trained
    )


def train_on(config: TrainConfig, folder: RunFolder, start: ResumePoint, data: VisionLanguageData) -> list[pl.Callback]:
    """The callback of a run that resumes with more steps than before, or none."""
    schedule: Schedule = registry.build(config.schedule)
    return extending.train_on(folder, start, data.plan, schedule, config.schedule.type)


def _strategy(config: TrainerConfig, ranks: int) -> Any:
    """Lightning's strategy for this number of ranks."""
    if config.strategy == "fsdp":
        return ShardedModel(ranks, config.rank_timeout)
    return "auto" if ranks == 1 else SummedGradients(config.rank_timeout)


def preload() -> None:
    """Imports what torch and others would otherwise import during the first step."""
    with clock.importing():
        import timm  # noqa: F401
        import torch._dynamo  # noqa: F401 - imported by the first torch optimizer
        import transformers.models.auto.modeling_auto  # noqa: F401
