"""`optim` and `schedule`: the optimizer, its learning rates, and their schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class OptimConfig(OptionConfig):
    """`optim`: the keys of every optimizer."""

    state_bytes: ClassVar[float] = 0.0
    """Bytes of its state for a byte of trained weights, as `Optimizer.state_dict` has them."""
    of_bitsandbytes: ClassVar[bool] = False
    """Whether bitsandbytes computes its steps: on whole weights, with moments of at most 32 bits."""

    lr: float | None = field(None, gt=0)
    """Learning rate of the encoders; null: the tuning method's own default (full: 5e-5)."""
    head_lr: float = field(1e-3, gt=0)
    """Learning rate of fusion and head."""
    layer_decay: float = field(1.0, gt=0, le=1, needs_trained_encoder=True)
    """Layer-wise decay: each encoder layer's learning rate is this times that of the layer above it."""
    clip_norm: float | None = field(1.0, gt=0)
    """Largest gradient norm over all trainable parameters; null: no clipping."""
    weight_decay: float = field(0.01, ge=0)
    """Decay of weight matrices; norms, biases, embeddings, positions and class tokens are not decayed."""
    start_decay: float = field(0.0, ge=0, needs_trained_encoder=True)
    """Decay of all trained weights of pretrained encoders, and of a pair's projections and temperature, toward their
    start, in place of `weight_decay` (L2-SP; Li et al., 2018, arXiv 1802.01483), by learning rate x this per optimizer
    step, such as 0.1. Logged as `train/loss/start_decay`, which `train/loss` excludes. Keeps one more copy of these
    weights in memory; 0: off."""


@dataclass(kw_only=True)
class _Adam(OptimConfig):
    """The keys of every AdamW."""

    state_bytes = 2.0

    beta1: float = field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = field(0.999, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = field(1e-8, gt=0)
    """Added to the denominator for numerical stability."""


@option("optim", "adamw", builds="mmft.training.optim:adamw")
@dataclass(kw_only=True)
class AdamWConfig(_Adam):
    """AdamW (Loshchilov and Hutter, 2019), fused where the device supports it."""


@option("optim", "adamw_8bit", builds="mmft.training.optim:adamw_8bit")
@dataclass(kw_only=True)
class AdamW8bitConfig(_Adam):
    """AdamW with 8-bit moments (Dettmers et al., 2022); tensors of fewer than 4,096 values keep 32 bits."""

    state_bytes = 0.5
    of_bitsandbytes = True


@option("optim", "paged_adamw", builds="mmft.training.optim:paged_adamw")
@dataclass(kw_only=True)
class PagedAdamWConfig(_Adam):
    """AdamW whose moments are paged to CPU memory when the GPU is full (Dettmers et al., 2023)."""

    of_bitsandbytes = True


@option("optim", "paged_adamw_8bit", builds="mmft.training.optim:paged_adamw_8bit")
@dataclass(kw_only=True)
class PagedAdamW8bitConfig(AdamW8bitConfig):
    """`adamw_8bit` whose moments are paged to CPU memory when the GPU is full."""


@option("optim", "sgd", builds="mmft.training.optim:sgd")
@dataclass(kw_only=True)
class SGDConfig(OptimConfig):
    """Stochastic gradient descent with momentum."""

    state_bytes = 1.0

    momentum: float = field(0.9, ge=0, lt=1)
    """Momentum; 0: none."""
    nesterov: bool = field(False, only_with="momentum=0.9")
    """Nesterov momentum; needs `optim.momentum` above 0."""


@dataclass(kw_only=True)
class ScheduleConfig(OptionConfig):
    """`schedule`: a pure function of the optimizer step, with linear warm-up."""

    warmup: int | float = field(0.1, ge=0)
    """Length of the warm-up: a share of all optimizer steps (below 1) or a number of steps."""


@dataclass(kw_only=True)
class _DecayConfig(ScheduleConfig):
    min_factor: float = field(0.0, ge=0, le=1)
    """Final learning rate as a share of the full one."""


@option("schedule", "constant", builds="mmft.training.schedules:Constant")
@dataclass(kw_only=True)
class ConstantConfig(ScheduleConfig):
    """Constant learning rate after the warm-up."""


@option("schedule", "cosine", builds="mmft.training.schedules:Cosine")
@dataclass(kw_only=True)
class CosineConfig(_DecayConfig):
    """Cosine decay to `min_factor` (Loshchilov and Hutter, 2017)."""


@option("schedule", "linear", builds="mmft.training.schedules:Linear")
@dataclass(kw_only=True)
class LinearConfig(_DecayConfig):
    """Linear decay to `min_factor`."""


@option("schedule", "wsd", builds="mmft.training.schedules:WarmupStableDecay")
@dataclass(kw_only=True)
class WarmupStableDecayConfig(_DecayConfig):
    """Warm-up, constant learning rate, then linear decay (Hu et al., 2024)."""

    decay: float = field(0.2, gt=0, le=1)
    """Length of the decay as a share of the steps after the warm-up."""
