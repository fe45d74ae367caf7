"""`trainer`, `checkpoint`, `callbacks`: how training runs, what it keeps and tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, section


@section("trainer", "auto")
@dataclass(kw_only=True)
class TrainerConfig:
    """`trainer`: passed on to Lightning's Trainer under the same names."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU where there is one."""
    devices: int | None = field(1, ge=1)
    """Devices of this machine, with one process (rank) each; null: all its GPUs. Started by torchrun or srun: as many
    as they start."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """What several devices keep: `ddp` each the whole model, `fsdp` each a part of its weights, gradients and optimizer
    states, which they lend each other layer by layer: slower, for models that do not fit otherwise."""
    rank_timeout: float = field(600.0, gt=0)
    """Seconds after which a rank that others wait for ends the run, which then names it."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"] = "auto"
    """`auto`: bf16-mixed where the processor or GPU has it in hardware, else 16-mixed on a GPU, else 32-true. 16-mixed
    scales the loss, and skips the optimizer steps whose gradient overflows (`train/loss_scale`, `train/skipped_steps`).
    """
    gradient_checkpointing: bool = False
    """Keep no activations inside the encoders' blocks but compute them again in the backward pass: much less memory,
    about a third more time, the same result."""
    max_epochs: int = field(3, ge=1)
    """Passes over the training rows."""
    max_steps: int | None = field(None, ge=1)
    """Optimizer steps after which training ends; null: as many as `max_epochs` take."""
    max_time: str | None = None
    """Time after which training ends and the model is finished, `HH:MM:SS` or `DD:HH:MM:SS`; null: no limit."""
    val_every_epochs: int = field(1, ge=1)
    """Validation after every so many epochs."""
    log_every_steps: int = field(10, ge=1)
    """A line in metrics.csv after the first and every so many optimizer steps."""


@section("checkpoint")
@dataclass(kw_only=True)
class CheckpointConfig:
    """`checkpoint`: when the state of training is saved, and which model is the finished one."""

    every_steps: int | None = field(None, ge=1)
    """Saved after every so many optimizer steps as well as after every epoch; null: after every epoch."""
    every_minutes: float | None = field(None, gt=0)
    """Saved whenever so many minutes have passed since the last time, too; null: not by the clock."""
    use: Literal["best", "last", "soup_uniform", "soup_greedy"] = "best"
    """The finished model: the best on the validation rows by `checkpoint.monitor`, or the last; or the mean of the
    weights of the `checkpoint.keep` best, all of them or, from best to worst, those that make it no worse on the
    validation rows (model soups, Wortsman et al., 2022)."""
    keep: int = field(1, ge=1, needs_val=True)
    """How many of the best checkpoints are kept; from 2 on each is a folder `step_N` beside `best` and `last`."""
    monitor: str | None = field(None, needs_val=True)
    """A validation metric, for example `accuracy`, `f1_macro` or `loss`; null: the task's own choice."""


@dataclass(kw_only=True)
class EarlyStoppingConfig:
    """`callbacks.early_stopping`: stop when `checkpoint.monitor` no longer gets better."""

    patience: int | None = field(None, ge=1, needs_val=True)
    """Validations without improvement after which training stops; null: never."""
    min_delta: float = field(0.0, ge=0, only_with="patience=3")
    """What counts as an improvement."""


@dataclass(kw_only=True)
class GradientAccumulationConfig:
    """`callbacks.gradient_accumulation`: the batch size as a function of the epoch."""

    schedule: dict[int, int] | None = None
    """Epoch (from 0) -> rows of one optimizer step from then on, for example `{0: 32, 2: 64}`;
    null: `data.batch_size` throughout."""


@dataclass(kw_only=True)
class ProfileConfig:
    """`callbacks.profile`: where the time of a few optimizer steps goes, in the run folder's `profile/`."""

    steps: int | None = field(None, ge=1)
    """Optimizer steps that are profiled; null: none."""
    after: int = field(3, ge=0)
    """Optimizer steps before them, which are not: the first are slower than all others."""


@dataclass(kw_only=True)
class EmaConfig:
    """`callbacks.ema`: the exponential moving average of the trained weights, which then is validated and finished."""

    decay: float | None = field(None, gt=0, lt=1)
    """Share of the average that an optimizer step leaves of it, such as 0.999; null: no average."""
    warmup: bool = field(True, only_with="decay=0.999")
    """In the t-th optimizer step at most (1 + t) / (10 + t) is left, so that the first weights are soon forgotten."""


@dataclass(kw_only=True)
class CallbackConfig(OptionConfig):
    """`callbacks.extra`: base of callbacks of your own."""

    group_path = "callbacks/extra"


@section("callbacks")
@dataclass(kw_only=True)
class CallbacksConfig:
    """`callbacks`: what happens beside the training step."""

    early_stopping: EarlyStoppingConfig = field(factory=EarlyStoppingConfig)
    """When to stop early."""
    ema: EmaConfig = field(factory=EmaConfig)
    """Averaged weights."""
    gradient_accumulation: GradientAccumulationConfig = field(factory=GradientAccumulationConfig)
    """Batch size by epoch."""
    profile: ProfileConfig = field(factory=ProfileConfig)
    """What is profiled."""
    extra: dict[str, CallbackConfig] | None = None
    """Callbacks of your own by any names, `{mine:OPTION}` or `{mine:{type:OPTION,key:value}}` (docs/extend.md)."""
    progress: Literal["auto", "rich", "plain", "none"] = "auto"
    """Progress on stderr: `auto` is `rich` (a bar) on a terminal, else `plain` lines."""
