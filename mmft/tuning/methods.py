"""Tuning methods of one tower. A method says which parameters are trained, and at which rate by default."""

from __future__ import annotations

from typing import Protocol

from mmft.models.encoder import Encoder


class TuningMethod(Protocol):
    """What a tuning method offers.

    Attributes:
        name: as in the config.
        lr: the tower's own learning rate; None: `optim.lr`, else `default_lr`.
        default_lr: the rate that suits the method when none is given.
    """

    name: str
    lr: float | None
    default_lr: float

    def trained(self, tower: Encoder) -> set[str]:
        """Names of the parameters of `tower` that are trained."""


class Full:
    """Every parameter is trained."""

    name = "full"
    default_lr = 5e-5

    def __init__(self, lr: float | None = None) -> None:
        self.lr = lr

    def trained(self, tower: Encoder) -> set[str]:
        """All that take part in the output."""
        return {name for name, p in tower.named_parameters() if p.requires_grad}


class Freeze:
    """Nothing is trained; the tower stays in eval mode, its buffers unchanged."""

    name = "freeze"
    default_lr = 0.0
    lr = None

    def trained(self, tower: Encoder) -> set[str]:
        """None."""
        return set()
