"""`trainer`, `checkpoint`, `callbacks`: how training runs, and what it saves and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, section


@dataclass(kw_only=True)
class DeviceConfig:
    """`trainer` of the commands that use a run."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU if there is one."""


@section("trainer", "auto")
@dataclass(kw_only=True)
class TrainerConfig(DeviceConfig):
    """`trainer`: passed to Lightning's Trainer under the same names."""

    devices: int | None = field(1, ge=1)
    """Devices of this machine, with one process (rank) each; null: all its GPUs. Under torchrun or srun: as many as
    they start."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """`ddp`: every device holds the whole model; `fsdp`: weights, gradients and optimizer states are sharded over the
    devices and gathered layer by layer, which is slower, for models that do not fit on one device."""
    rank_timeout: float = field(600.0, gt=0)
    """Seconds to wait for a rank before the run ends with an error that names it."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"] = "auto"
    """`auto`: bf16-mixed if the CPU or GPU supports it in hardware, otherwise 16-mixed on a GPU and 32-true on a CPU.
    16-mixed scales the loss and skips steps whose gradient overflows (`train/loss_scale`, `train/skipped_steps`)."""
    gradient_checkpointing: bool = field(False, needs_trained_encoder=True)
    """Recompute activations inside the encoder blocks in the backward pass instead of storing them: much less memory,
    about a third more time, the same result."""
    max_epochs: int = field(3, ge=1)
    """Passes over the training rows."""
    max_steps: int | None = field(None, ge=1)
    """Optimizer steps after which training ends; null: `max_epochs` decides."""
    max_time: str | None = None
    """Time limit of training as `HH:MM:SS` or `DD:HH:MM:SS`; the model is then finished as usual; null: no limit."""
    val_every_epochs: int = field(1, ge=1)
    """Epochs between validations."""
    val_every_steps: int | None = field(None, ge=1, needs_val=True)
    """Optimizer steps between validations, also within an epoch; each is followed by a checkpoint, and the best of them
    is kept. null: `val_every_epochs` decides."""
    log_every_steps: int = field(10, ge=1)
    """Optimizer steps between lines of metrics.csv; the first step is always logged."""


@section("checkpoint")
@dataclass(kw_only=True)
class CheckpointConfig:
    """`checkpoint`: when checkpoints are saved, and which becomes the final model."""

    every_steps: int | None = field(None, ge=1)
    """Save at this interval of optimizer steps as well as after every epoch; null: after every epoch only."""
    every_minutes: float | None = field(None, gt=0)
    """Also save when this many minutes have passed since the last checkpoint; null: off."""
    use: Literal["best", "last", "soup_uniform", "soup_greedy", "wise_ft"] = "best"
    """The final model: `best` on the validation split by `checkpoint.monitor`, or `last`; or the mean weights of the
    `checkpoint.keep` best checkpoints: of all (`soup_uniform`), or, from best to worst, of those that do not make it
    worse on the validation split (`soup_greedy`; model soups, Wortsman et al., 2022); or `wise_ft`: `best` interpolated
    with the pretrained start (`checkpoint.alpha`), which is more robust to other data (Wortsman et al., 2022, arXiv
    2109.01903)."""
    alpha: float | list[float] | None = field(None, ge=0, le=1, only_with="use==wise_ft")
    """Share of the fine-tuned weights, the rest is the start's: 0 is the start, 1 is `best`. Weights that began at
    random, such as a new head, stay fine-tuned; what LoRA and its kin add is scaled by this. Of a list, the one with
    the best `checkpoint.monitor` on the validation split is taken, the smallest of equally good ones; null: 0.5."""
    alpha_tolerance: float = field(0.0, ge=0, only_with="use==wise_ft")
    """How much worse than the best of a list of alphas is still equally good, in the unit of `checkpoint.monitor`: the
    smallest alpha within it is taken. 0.01 is one point of accuracy or recall, which a small validation split hardly
    tells apart; a larger tolerance keeps more of the start."""
    keep: int = field(1, ge=1, needs_val=True)
    """Number of best checkpoints to keep; from 2 on, each is a folder `step_N` beside `best` and `last`."""
    monitor: str | None = field(None, needs_val=True)
    """Validation metric to select by, for example `accuracy`, `f1_macro` or `loss`; null: the task's default."""


@dataclass(kw_only=True)
class EarlyStoppingConfig:
    """`callbacks.early_stopping`: stop when `checkpoint.monitor` stops improving."""

    patience: int | None = field(None, ge=1, needs_val=True)
    """Validations without improvement after which training stops; null: never."""
    min_delta: float = field(0.0, ge=0, only_with="patience=3")
    """Smallest change that counts as an improvement."""


@dataclass(kw_only=True)
class GradientAccumulationConfig:
    """`callbacks.gradient_accumulation`: the batch size as a function of the epoch."""

    schedule: dict[int, int] | None = None
    """Maps an epoch (from 0) to the rows per optimizer step from then on, for example `{0: 32, 2: 64}`; null:
    `data.batch_size` throughout."""


@dataclass(kw_only=True)
class ProfileConfig:
    """`callbacks.profile`: profiles a few optimizer steps into the run folder's `profile/`."""

    steps: int | None = field(None, ge=1)
    """Optimizer steps to profile; null: none."""
    after: int = field(3, ge=0)
    """Optimizer steps to skip first, because the first steps are slower than the others."""


@dataclass(kw_only=True)
class EmaConfig:
    """`callbacks.ema`: validates and keeps an exponential moving average (EMA) of the trained weights."""

    decay: float | None = field(
        None,
        gt=0,
        lt=1,
        not_with={"trainer.strategy==fsdp": "it needs whole weights. Type trainer=ddp, or leave it out"},
    )
    """Decay of the exponential moving average of the weights per optimizer step, such as 0.999; null: no average."""
    warmup: bool = field(True, only_with="decay=0.999")
    """Limit the decay to (1 + t) / (10 + t) at optimizer step t, so that the initial weights are soon forgotten."""


@dataclass(kw_only=True)
class CallbackConfig(OptionConfig):
    """`callbacks.extra`: base of your own callbacks."""

    group_path = "callbacks/extra"


@section("callbacks")
@dataclass(kw_only=True)
class CallbacksConfig:
    """`callbacks`: what runs alongside the training step."""

    early_stopping: EarlyStoppingConfig = field(factory=EarlyStoppingConfig)
    """When to stop early."""
    ema: EmaConfig = field(factory=EmaConfig)
    """Averaged weights."""
    gradient_accumulation: GradientAccumulationConfig = field(factory=GradientAccumulationConfig)
    """Batch size by epoch."""
    profile: ProfileConfig = field(factory=ProfileConfig)
    """Profiler."""
    extra: dict[str, CallbackConfig] | None = None
    """Your own callbacks under any names: `{mine:OPTION}` or `{mine:{type:OPTION,key:value}}` (docs/extend.md)."""
    progress: Literal["auto", "rich", "plain", "none"] = "auto"
    """Progress on stderr: `auto` is `rich` (a bar) on a terminal and `plain` lines otherwise."""
