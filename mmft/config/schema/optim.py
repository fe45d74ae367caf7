"""`optim` and `schedule`: the optimizer, its learning rates, and how they change by optimizer step."""

from __future__ import annotations

from dataclasses import dataclass

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class OptimConfig(OptionConfig):
    """`optim`: what every optimizer has."""

    lr: float | None = field(None, gt=0)
    """The encoders' learning rate; null: the tuning method's own default (full: 5e-5)."""
    head_lr: float = field(1e-3, gt=0)
    """Learning rate of fusion and head."""
    layer_decay: float = field(1.0, gt=0, le=1)
    """Each layer of an encoder learns at this times the rate of the layer above it."""
    clip_norm: float | None = field(1.0, gt=0)
    """Largest norm of the gradient over all trained parameters; null: not clipped."""
    weight_decay: float = field(0.01, ge=0)
    """Decay of weight matrices; norms, biases, embeddings, positions and class tokens have none."""


@dataclass(kw_only=True)
class _Adam(OptimConfig):
    """What every AdamW has."""

    beta1: float = field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = field(0.999, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = field(1e-8, gt=0)
    """Added to the denominator."""


@option("optim", "adamw", builds="mmft.training.optim:adamw")
@dataclass(kw_only=True)
class AdamWConfig(_Adam):
    """AdamW (Loshchilov and Hutter, 2019), fused where the device has it."""


@option("optim", "adamw_8bit", builds="mmft.training.optim:adamw_8bit")
@dataclass(kw_only=True)
class AdamW8bitConfig(_Adam):
    """AdamW with moments in 8 bit (Dettmers et al., 2022); tensors of fewer than 4,096 values keep 32 bit."""


@option("optim", "paged_adamw", builds="mmft.training.optim:paged_adamw")
@dataclass(kw_only=True)
class PagedAdamWConfig(_Adam):
    """AdamW whose moments a full GPU moves to the CPU's memory (Dettmers et al., 2023)."""


@option("optim", "paged_adamw_8bit", builds="mmft.training.optim:paged_adamw_8bit")
@dataclass(kw_only=True)
class PagedAdamW8bitConfig(_Adam):
    """`adamw_8bit` whose moments a full GPU moves to the CPU's memory."""


@option("optim", "sgd", builds="mmft.training.optim:sgd")
@dataclass(kw_only=True)
class SGDConfig(OptimConfig):
    """Stochastic gradient descent with momentum."""

    momentum: float = field(0.9, ge=0, lt=1)
    """Momentum; 0: none."""
    nesterov: bool = field(False, only_with="momentum=0.9")
    """Nesterov's momentum; needs `optim.momentum` above 0."""


@dataclass(kw_only=True)
class ScheduleConfig(OptionConfig):
    """`schedule`: a pure function of the optimizer step; all begin with a linear warm-up."""

    warmup: int | float = field(0.1, ge=0)
    """A share of all optimizer steps (below 1) or a number of steps."""


@option("schedule", "constant", builds="mmft.training.schedules:Constant")
@dataclass(kw_only=True)
class ConstantConfig(ScheduleConfig):
    """The full rate after the warm-up."""


@option("schedule", "cosine", builds="mmft.training.schedules:Cosine")
@dataclass(kw_only=True)
class CosineConfig(ScheduleConfig):
    """Half a cosine down to `min_factor` (Loshchilov and Hutter, 2017)."""

    min_factor: float = field(0.0, ge=0, le=1)
    """The last rate as a share of the full one."""


@option("schedule", "linear", builds="mmft.training.schedules:Linear")
@dataclass(kw_only=True)
class LinearConfig(ScheduleConfig):
    """A straight line down to `min_factor`."""

    min_factor: float = field(0.0, ge=0, le=1)
    """The last rate as a share of the full one."""


@option("schedule", "wsd", builds="mmft.training.schedules:WarmupStableDecay")
@dataclass(kw_only=True)
class WarmupStableDecayConfig(ScheduleConfig):
    """Warm-up, the full rate, then a straight line down in the last share (Hu et al., 2024)."""

    decay: float = field(0.2, gt=0, le=1)
    """Share of the steps after the warm-up that the last part takes."""
    min_factor: float = field(0.0, ge=0, le=1)
    """The last rate as a share of the full one."""
