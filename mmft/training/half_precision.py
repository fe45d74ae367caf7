"""`trainer.precision=16-mixed`: autocast to float16, with a loss scale that keeps gradients from underflowing.

For GPUs without bfloat16. Float16 has 5 bits of exponent: gradients below 6e-8 become 0, values above 65,504 infinite.
So the loss is multiplied by a scale before the backward pass, the gradient is divided by it afterwards, and an
optimizer step whose gradient overflowed is skipped (Micikevicius et al. 2018, arXiv 1710.03740).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision, Precision
from torch import Tensor
from torch.nn import Parameter

from mmft.errors import TrainingError

log = logging.getLogger(__name__)

_START, _SMALLEST = 2.0**16, 2.0**-14
_GROWTH, _BACKOFF, _INTERVAL = 2.0, 0.5, 2000


class LossScale:
    """The loss scale of one run, with the rules of `torch.amp.GradScaler`.

    It starts at 65,536, is halved after an overflow and doubled after 2,000 steps in a row without one. As a power of
    two it changes no bit of a gradient that neither overflows nor underflows.

    GradScaler itself does not fit: Lightning's plugin scales every backward pass, of which gradient caching has several
    on one path, and unscales after clipping; and it does not agree across ranks that hold gradient shards.

    Attributes:
        value: for the next step.
        used: in the last step.
        good_steps: steps in a row since the last overflow or doubling.
        skipped_steps: in the whole run.
        overflowed: whether the last step was skipped.
    """

    def __init__(self) -> None:
        self.value = self.used = _START
        self.good_steps = self.skipped_steps = 0
        self.overflowed = False

    def unscale(self, parameters: Iterable[Parameter]) -> None:
        """Divides the gradients by the scale in place, once per optimizer step, after summing over ranks."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1 / self.value)

    def update(self, norm: Tensor) -> bool:
        """Records a step and sets the scale of the next one.

        Args:
            norm: () of the unscaled gradient over all ranks and shards, so all ranks decide alike; finite exactly if
                every element is.

        Returns:
            Whether the optimizer may step.

        Raises:
            TrainingError: the scale is too small for training to proceed.
        """
        self.used, self.overflowed = self.value, not math.isfinite(float(norm))
        if not self.overflowed:
            self.good_steps += 1
            if self.good_steps == _INTERVAL:
                self.value, self.good_steps = self.value * _GROWTH, 0
            return True
        self.value, self.good_steps = self.value * _BACKOFF, 0
        self.skipped_steps += 1
        log.debug("gradient overflow at loss scale %g; optimizer step skipped", self.used)
        if self.value < _SMALLEST:
            raise TrainingError(
                f"The gradient is not finite even at a loss scale of {self.used:g}, so no optimizer step is possible. "
                "Try a lower optim.lr or optim.head_lr, trainer.precision=bf16-mixed or 32-true."
            )
        return False

    def state(self) -> dict[str, float]:
        """State for a checkpoint."""
        return {"value": self.value, "good_steps": self.good_steps, "skipped_steps": self.skipped_steps}

    def load_state(self, state: dict[str, float]) -> None:
        """Restores what `state` returned."""
        self.value = float(state["value"])
        self.good_steps, self.skipped_steps = int(state["good_steps"]), int(state["skipped_steps"])


class Float16Autocast(MixedPrecision):
    """Lightning's float16 autocast without its scaler; `FineTuning` applies a `LossScale`.

    Args:
        device: device type, `cuda` or `cpu`.
    """

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device)
        self.scaler = None


def precision_plugin(precision: str, device: str) -> Precision:
    """The precision plugin for Lightning's Trainer, which by name would refuse 16-mixed on a CPU.

    Args:
        precision: `32-true`, `64-true`, `bf16-mixed` or `16-mixed`.
        device: device type.
    """
    if precision == "16-mixed":
        return Float16Autocast(device)
    if precision == "bf16-mixed":
        return MixedPrecision("bf16-mixed", device)
    return DoublePrecision() if precision == "64-true" else Precision()
