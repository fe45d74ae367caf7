"""Learning-rate schedules: pure functions of the optimizer step, each with a linear warm-up."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import SupportsFloat

from mmft.errors import UserError


class Schedule(ABC):
    """Returns the factor of the base learning rate at an optimizer step.

    Args:
        warmup: a fraction of all steps (below 1) or a number of steps.
    """

    def __init__(self, warmup: float) -> None:
        self.warmup = warmup

    def warmup_steps(self, total: int) -> int:
        """Number of warm-up steps out of `total`.

        Raises:
            UserError: the warm-up is longer than training; it is never cut silently.
        """
        steps = round(self.warmup * total) if self.warmup < 1 else int(self.warmup)
        if steps > total:
            raise UserError(
                f"schedule.warmup={self.warmup}: training has only {total} optimizer steps. Use a shorter warm-up."
            )
        return steps

    def factor(self, step: int, total: int) -> float:
        """The factor at `step` (from 0) of `total`; 1 at the last warm-up step."""
        warmup = self.warmup_steps(total)
        if step < warmup:
            return (step + 1) / warmup
        found = self.shape((step - warmup) / max(1, total - warmup))
        if not isinstance(found, SupportsFloat):
            raise UserError(f"{type(self).__name__}.shape gives {found!r}, and not the factor of the learning rate")
        return float(found)

    @abstractmethod
    def shape(self, progress: float) -> float:
        """The factor at `progress` (0 to 1) through the steps after the warm-up."""


class Constant(Schedule):
    """Constant at the full rate."""

    def shape(self, progress: float) -> float:
        """Always 1."""
        return 1.0


class Cosine(Schedule):
    """Cosine decay to `min_factor` (Loshchilov and Hutter, 2017, arXiv 1608.03983)."""

    def __init__(self, warmup: float, min_factor: float) -> None:
        super().__init__(warmup)
        self.min_factor = min_factor

    def shape(self, progress: float) -> float:
        """From 1 down to `min_factor`."""
        return self.min_factor + (1 - self.min_factor) * 0.5 * (1 + math.cos(math.pi * progress))


class Linear(Schedule):
    """Linear decay to `min_factor`."""

    def __init__(self, warmup: float, min_factor: float) -> None:
        super().__init__(warmup)
        self.min_factor = min_factor

    def shape(self, progress: float) -> float:
        """From 1 down to `min_factor`."""
        return 1 - (1 - self.min_factor) * progress


class WarmupStableDecay(Schedule):
    """The full rate, then a linear decay in the last part (Hu et al., 2024, arXiv 2404.06395).

    Args:
        warmup: as in `Schedule`.
        decay: fraction of the steps after the warm-up spent on the decay.
        min_factor: final rate as a fraction of the full one.
    """

    def __init__(self, warmup: float, decay: float, min_factor: float) -> None:
        super().__init__(warmup)
        self.decay = decay
        self.min_factor = min_factor

    def shape(self, progress: float) -> float:
        """1, then down to `min_factor`."""
        into = max(0.0, (progress - (1 - self.decay)) / self.decay)
        return 1 - (1 - self.min_factor) * into
