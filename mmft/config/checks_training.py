"""Checks of model, tuning, optimizer, schedule and trainer."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec

from mmft.config.checks import check_train
from mmft.config.schema import TrainConfig
from mmft.config.schema.logger import TensorBoardConfig
from mmft.config.wording import listed, show
from mmft.ranks import started
from mmft.shipped import PREFIX, located

_LOCAL = ("/", "./", "../", "~", PREFIX)  # what begins like this can only be a folder


@check_train("model.image_encoder.name")
def image_encoder_is_there(c: TrainConfig) -> str | None:
    """A local image encoder exists."""
    return _no_encoder(c.model.image_encoder.name)


@check_train("model.text_encoder.name")
def text_encoder_is_there(c: TrainConfig) -> str | None:
    """A local text encoder exists."""
    return _no_encoder(c.model.text_encoder.name)


def _no_encoder(name: str) -> str | None:
    if not name.strip():
        return "is empty. Type a folder or a hub name"
    if os.environ.get("MMFT_ENCODERS"):  # it may have been moved there
        return None
    folder = located(name)
    if name.startswith(_LOCAL) and not folder.is_dir():
        return f"there is no folder {show(name)}"
    if folder.is_dir() and not (folder / "config.json").is_file():
        return f"{show(name)} is no encoder: it has no config.json"
    return None


@check_train("model.image_encoder.image_size", "model.image_encoder.name")
def image_size_fits_the_patches(c: TrainConfig) -> str | None:
    """A picture is a whole number of patches, where the name says how large they are."""
    size, found = c.model.image_encoder.image_size, re.search(r"patch(\d+)", c.model.image_encoder.name)
    patch = int(found[1]) if found else 1
    if size is None or patch < 1 or size % patch == 0:
        return None
    below = size // patch * patch
    return f"{size} is no multiple of the encoder's patch of {patch}; type {below or patch} or {below + patch}"


@check_train("trainer.max_time")
def max_time_is_a_time(c: TrainConfig) -> str | None:
    """The time limit can be read."""
    given = c.trainer.max_time
    if given is None or re.fullmatch(r"(\d+:)?\d+:[0-5]?\d:[0-5]?\d", given):
        return None
    return f"{show(given)} is no time; type HH:MM:SS or DD:HH:MM:SS, for example trainer.max_time=01:30:00"


@check_train("model.fusion.dropout", "model.dropout")
def one_dropout(c: TrainConfig) -> str | None:
    """`model.dropout` sets the fusion's too."""
    dropout = getattr(c.model.fusion, "dropout", None)
    default = getattr(type(c.model.fusion), "dropout", None)
    if c.model.dropout is None or dropout in (default, c.model.dropout):
        return None
    return f"changes nothing, because model.dropout={c.model.dropout} sets dropout everywhere. Leave one of them out"


@check_train("model.fusion.heads", "model.fusion.width")
def heads_share_the_width(c: TrainConfig) -> str | None:
    """Every attention head gets the same part of the width."""
    heads, width = getattr(c.model.fusion, "heads", 1), getattr(c.model.fusion, "width", 1)
    if width % heads == 0:
        return None
    more = -(-width // heads) * heads
    return f"{heads} heads cannot share model.fusion.width={width} evenly. Type model.fusion.width={more}"


@check_train("data.sampler", "task")
def sampler_has_classes(c: TrainConfig) -> str | None:
    """There are classes to balance, and nothing else balances them too."""
    if c.data.sampler != "balanced":
        return None
    if not c.task.has_classes:
        return (
            f"balanced needs a class for every row, which task={c.task.type} does not have. Type data.sampler=shuffled"
        )
    if getattr(c.task, "class_weights", "none") == "balanced":
        return "balanced does not go with task.class_weights=balanced, which would count rare classes twice. Choose one"
    return None


@check_train("optim.nesterov", "optim.momentum")
def nesterov_has_momentum(c: TrainConfig) -> str | None:
    """Nesterov's momentum is a momentum."""
    if not getattr(c.optim, "nesterov", False) or getattr(c.optim, "momentum", 0) > 0:
        return None
    return "needs optim.momentum above 0. Type optim.momentum=0.9"


@check_train("trainer.strategy", "trainer.devices", "trainer.precision")
def fsdp_has_shards(c: TrainConfig) -> str | None:
    """There are ranks to share the model among, in a precision that Lightning takes for it."""
    if c.trainer.strategy != "fsdp":
        return None
    if c.trainer.devices == 1 and started().world == 1:
        return "fsdp parts the model among devices, and there is one. Type trainer.devices=2, or trainer=auto"
    if c.trainer.precision == "64-true":
        return "fsdp does not go with trainer.precision=64-true. Type trainer.precision=32-true, or trainer=ddp"
    return None


@check_train("schedule.warmup", "trainer.max_steps")
def warmup_fits(c: TrainConfig) -> str | None:
    """A warm-up is a share, or a whole number of steps that are fewer than all."""
    warmup, steps = c.schedule.warmup, c.trainer.max_steps
    if warmup < 1:
        return None
    if warmup != int(warmup):
        return f"{warmup} is neither a share below 1 nor a whole number of optimizer steps. Type {int(warmup)} or 0.1"
    if steps is not None and warmup >= steps:
        return f"{warmup} steps of warm-up, but trainer.max_steps={steps}: the full rate would never be reached"
    return None


@check_train("trainer.val_every_epochs", "trainer.max_epochs")
def some_validation(c: TrainConfig) -> str | None:
    """There is a validation before training ends."""
    every, epochs = c.trainer.val_every_epochs, c.trainer.max_epochs
    if every <= epochs:
        return None
    return f"{every} is more than trainer.max_epochs={epochs}: there would be no validation. Type {epochs} or less"


@check_train("callbacks.gradient_accumulation.schedule", "data.micro_batch_size", "trainer.max_epochs")
def batch_schedule_is_whole(c: TrainConfig) -> str | None:
    """The batch size is known from epoch 0 on, and every entry can come into force."""
    schedule, micro = c.callbacks.gradient_accumulation.schedule, c.data.micro_batch_size
    if schedule is None:
        return None
    if 0 not in schedule:
        return f"says nothing of epoch 0. Type {{0:{c.data.batch_size},...}}"
    epochs, last = sorted(schedule), c.trainer.max_epochs - 1
    if epochs[0] < 0 or epochs[-1] > last:
        return f"epochs {listed(e for e in epochs if not 0 <= e <= last)} do not happen; epochs are 0 to {last}"
    if min(schedule.values()) < 1:
        return f"{show(schedule)}: every batch size is at least 1"
    least = min(schedule.values())
    if micro is not None and micro > least:
        return f"data.micro_batch_size={micro} is more than the batch of {least}, of which it is a part"
    return None


def no_val(c: TrainConfig) -> str | None:
    """Why there are no validation rows, where that is known already."""
    if c.data.folds is not None and c.data.test is not None:
        return None  # the fold that is held out
    if c.data.folds is None and c.data.train is not None and c.data.val is None:
        return "there is no data.val"
    if (c.data.train is None or c.data.folds) and c.data.columns.split is None and c.data.fractions.val == 0:
        return "data.fractions.val is 0"
    return None


SPLITS = ("data.train", "data.val", "data.test", "data.columns.split", "data.fractions", "data.folds")


@check_train("callbacks.early_stopping.patience", *SPLITS)
def early_stopping_can_see(c: TrainConfig) -> str | None:
    """Early stopping has validation rows."""
    if c.callbacks.early_stopping.patience is None or (why := no_val(c)) is None:
        return None
    return f"needs validation rows, but {why}"


@check_train("checkpoint.monitor", *SPLITS)
def monitor_can_see(c: TrainConfig) -> str | None:
    """The monitored metric has validation rows."""
    if c.checkpoint.monitor is None or (why := no_val(c)) is None:
        return None
    return f"needs validation rows, but {why}"


@check_train("logger")
def tensorboard_is_there(c: TrainConfig) -> str | None:
    """TensorBoard is a package of its own."""
    if not isinstance(c.logger, TensorBoardConfig) or find_spec("tensorboard") is not None:
        return None
    return "tensorboard is not installed. Type: pip install tensorboard"


@check_train("logger.project")
def wandb_project_is_a_name(c: TrainConfig) -> str | None:
    """A project's name is part of an address."""
    project = getattr(c.logger, "project", None)
    if project is None or (project.strip() and not set(project) & set("/\\#?%:")):
        return None
    return f"{show(project)} is no name of a wandb project: none of / \\ # ? % : may be in it"


@check_train("callbacks.profile.steps", "callbacks.profile.after", "trainer.max_steps")
def profile_happens(c: TrainConfig) -> str | None:
    """The steps to profile are among those of the run."""
    profile, steps = c.callbacks.profile, c.trainer.max_steps
    if profile.steps is None or steps is None or profile.after + profile.steps <= steps:
        return None
    return (
        f"{profile.steps} after callbacks.profile.after={profile.after} are more than trainer.max_steps={steps}. "
        f"Type trainer.max_steps={profile.after + profile.steps}"
    )


@check_train("callbacks.early_stopping.min_delta", "callbacks.early_stopping.patience")
def min_delta_is_used(c: TrainConfig) -> str | None:
    """`min_delta` belongs to a patience."""
    early = c.callbacks.early_stopping
    if early.min_delta == 0 or early.patience is not None:
        return None
    return "changes nothing without callbacks.early_stopping.patience. Type callbacks.early_stopping.patience=3"
