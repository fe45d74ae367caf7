"""Rules about `optim`, `schedule`, `trainer`, `checkpoint`, `callbacks` and `logger`: how training runs."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

from mmft.config.rules.base import SPLITS, no_val, rule, tuned_by
from mmft.config.schema.logger import TensorBoardConfig
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.root import TrainConfig
from mmft.config.wording import listed, show
from mmft.ranks import started


@rule("optim", "trainer.strategy", "trainer.precision")
def _bitsandbytes_updates_whole_float32_weights(c: TrainConfig) -> str | None:
    if not c.optim.of_bitsandbytes:
        return None
    if c.trainer.strategy == "fsdp":
        return f"{c.optim.type} cannot update the sharded weights of fsdp. Type optim=adamw, or trainer=ddp"
    if c.trainer.precision == "64-true":
        return (
            f"{c.optim.type} keeps its moments in 8 or 32 bits, which does not go with trainer.precision=64-true. "
            "Type optim=adamw, or trainer.precision=32-true"
        )
    return None


@rule("schedule.warmup", "trainer.max_steps")
def _warmup_fits(c: TrainConfig) -> str | None:
    warmup, steps = c.schedule.warmup, c.trainer.max_steps
    if warmup < 1:
        return None
    if warmup != int(warmup):
        return f"{warmup} is neither a share below 1 nor a whole number of optimizer steps. Type {int(warmup)} or 0.1"
    if steps is not None and warmup >= steps:
        return f"{warmup} steps of warm-up, but trainer.max_steps={steps}: the full learning rate is never reached"
    return None


@rule("trainer.strategy", "trainer.devices", "trainer.precision")
def _fsdp_has_shards(c: TrainConfig) -> str | None:
    if c.trainer.strategy != "fsdp":
        return None
    if c.trainer.devices == 1 and started().world == 1:
        return "fsdp shards the model over several devices, but there is one. Type trainer.devices=2, or trainer=auto"
    if c.trainer.precision == "64-true":
        return "fsdp does not go with trainer.precision=64-true. Type trainer.precision=32-true, or trainer=ddp"
    return None


@rule("trainer.max_time")
def _max_time_is_a_time(c: TrainConfig) -> str | None:
    given = c.trainer.max_time
    if given is None or re.fullmatch(r"(\d+:)?\d+:[0-5]?\d:[0-5]?\d", given):
        return None
    return f"{show(given)} is not a time. Type HH:MM:SS or DD:HH:MM:SS, for example trainer.max_time=01:30:00"


@rule("trainer.val_every_steps", "trainer.val_every_epochs")
def _validations_have_one_interval(c: TrainConfig) -> str | None:
    steps, epochs = c.trainer.val_every_steps, c.trainer.val_every_epochs
    if steps is None or epochs == 1:
        return None
    return f"{steps} does not go with trainer.val_every_epochs={epochs}. Leave one of them out"


@rule("trainer.val_every_steps", "trainer.max_steps")
def _there_is_a_validation_by_steps(c: TrainConfig) -> str | None:
    every, steps = c.trainer.val_every_steps, c.trainer.max_steps
    if every is None or steps is None or every <= steps:
        return None
    return f"{every} is more than trainer.max_steps={steps}: there would be no validation. Type {steps} or less"


@rule("trainer.val_every_epochs", "trainer.max_epochs", "trainer.val_every_steps")
def _there_is_a_validation(c: TrainConfig) -> str | None:
    every, epochs = c.trainer.val_every_epochs, c.trainer.max_epochs
    if every <= epochs or c.trainer.val_every_steps is not None:
        return None
    return f"{every} is more than trainer.max_epochs={epochs}: there would be no validation. Type {epochs} or less"


@rule("callbacks.gradient_accumulation.schedule", "data.micro_batch_size", "trainer.max_epochs")
def _batch_schedule_is_whole(c: TrainConfig) -> str | None:
    schedule, micro = c.callbacks.gradient_accumulation.schedule, c.data.micro_batch_size
    if schedule is None:
        return None
    if 0 not in schedule:
        return f"must start at epoch 0. Type {{0:{c.data.batch_size},...}}"
    epochs, last = sorted(schedule), c.trainer.max_epochs - 1
    if epochs[0] < 0 or epochs[-1] > last:
        return f"epochs {listed(e for e in epochs if not 0 <= e <= last)} do not exist; epochs are 0 to {last}"
    least = min(schedule.values())
    if least < 1:
        return f"{show(schedule)}: every batch size must be at least 1"
    if micro is not None and micro > least:
        return f"data.micro_batch_size={micro} is more than the smallest batch size of {least}"
    return None


@rule("callbacks.profile.steps", "callbacks.profile.after", "trainer.max_steps")
def _profiled_steps_happen(c: TrainConfig) -> str | None:
    profile, steps = c.callbacks.profile, c.trainer.max_steps
    if profile.steps is None or steps is None or profile.after + profile.steps <= steps:
        return None
    return (
        f"{profile.steps} plus callbacks.profile.after={profile.after} is more than trainer.max_steps={steps}. "
        f"Type trainer.max_steps={profile.after + profile.steps}"
    )


@rule("checkpoint.keep", "checkpoint.use")
def _soup_has_ingredients(c: TrainConfig) -> str | None:
    if not c.checkpoint.use.startswith("soup") or c.checkpoint.keep > 1:
        return None
    return f"{c.checkpoint.use} averages at least 2 checkpoints. Type checkpoint.keep=3"


@rule("checkpoint.use", "trainer.max_epochs", "trainer.val_every_epochs", "trainer.val_every_steps", *SPLITS)
def _soup_has_validations(c: TrainConfig) -> str | None:
    if not c.checkpoint.use.startswith("soup"):
        return None
    if why := no_val(c):
        return f"{c.checkpoint.use} needs validation rows, but {why}"
    epochs, every = c.trainer.max_epochs, c.trainer.val_every_epochs
    if epochs // every != 1 or c.trainer.val_every_steps is not None:
        return None
    return (
        f"{c.checkpoint.use} averages several validated checkpoints, but trainer.max_epochs={epochs} gives only one. "
        f"Type trainer.max_epochs={2 * every}, or checkpoint.use=best"
    )


@rule("checkpoint.use", *(f"tune.{encoder}" for encoder in ENCODERS))
def _change_can_be_interpolated(c: TrainConfig) -> str | None:
    if c.checkpoint.use != "wise_ft":
        return None
    for encoder in ENCODERS:
        method: Any = getattr(c.tune, encoder)
        if not method.interpolates or (hasattr(method, "dora") and tuned_by(c, encoder, "dora")):
            named = f"{method.type} with dora" if method.interpolates else method.type
            return (
                f"wise_ft is not defined for tune/{encoder}={named}, whose change cannot be scaled. "
                f"Type tune/{encoder}=lora, or checkpoint.use=best"
            )
    return None


@rule("checkpoint.alpha", *SPLITS)
def _alphas_are_shares(c: TrainConfig) -> str | None:
    alphas = c.checkpoint.alpha
    if not isinstance(alphas, list):
        return "1 is the fine-tuned model itself. Type checkpoint.use=best" if alphas == 1 else None
    if not alphas or len(set(alphas)) < len(alphas) or not all(0 <= alpha <= 1 for alpha in alphas):
        return f"{show(alphas)}: give different numbers from 0 to 1, such as [0.25,0.5,0.75]"
    if len(alphas) > 1 and (why := no_val(c)):
        return f"a list needs validation rows to choose by, but {why}. Type checkpoint.alpha=0.5"
    return None


@rule("checkpoint.alpha_tolerance", "checkpoint.alpha")
def _tolerance_is_between_alphas(c: TrainConfig) -> str | None:
    alpha = c.checkpoint.alpha
    if not c.checkpoint.alpha_tolerance or (isinstance(alpha, list) and len(alpha) != 1):
        return None
    return f"changes nothing with one alpha ({show(alpha)}). Type checkpoint.alpha=[0.25,0.5,0.75], or leave it out"


@rule("logger")
def _tensorboard_is_installed(c: TrainConfig) -> str | None:
    if not isinstance(c.logger, TensorBoardConfig) or find_spec("tensorboard") is not None:
        return None
    return "tensorboard is not installed. Type: pip install tensorboard"


@rule("logger.project")
def _wandb_project_is_a_name(c: TrainConfig) -> str | None:
    project = getattr(c.logger, "project", None)
    if project is None or (project.strip() and not set(project) & set("/\\#?%:")):
        return None
    return f"{show(project)} cannot be the name of a wandb project: it must not contain any of / \\ # ? % :"
