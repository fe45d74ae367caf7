"""What a tuning method offers. It may change an encoder, and says which of its parameters are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from mmft.errors import UserError
from mmft.models.encoder import Encoder


class Start(NamedTuple):
    """When a layer begins to be trained: after so many epochs, or optimizer steps.

    Attributes:
        at: 0: from the first step on.
        unit: what `at` counts.
        warmup: optimizer steps over which its rate rises from there.
    """

    at: int = 0
    unit: str = "epoch"
    warmup: int = 0


class TuningMethod(ABC):
    """How one encoder is tuned.

    Args:
        key: the config's key of the method, for messages: `tune.image_encoder`.
        lr: the encoder's own learning rate; None: `optim.lr`, else `default_lr`.

    Attributes:
        name: as in the config.
        default_lr: the rate that suits the method when none is given.
    """

    name: ClassVar[str]
    default_lr: ClassVar[float]

    def __init__(self, key: str, lr: float | None = None) -> None:
        self.key = key
        self.lr = lr

    def apply(self, encoder: Encoder) -> None:  # noqa: B027 - most methods add nothing
        """Puts into the encoder what the method adds; what is frozen keeps its place in the output.

        Raises:
            UserError: the encoder has nothing that the method can be applied to.
        """

    @abstractmethod
    def trained(self, encoder: Encoder) -> set[str]:
        """Names of the parameters of `encoder`, after `apply`, that are ever trained.

        Raises:
            UserError: there is none.
        """

    def starts(self, encoder: Encoder) -> dict[int, Start]:
        """When the layers that are not trained from the first step on begin, by layer number."""
        return {}

    def merge(self, encoder: Encoder) -> None:  # noqa: B027 - and have nothing to merge
        """Puts what the method has learned into the encoder's own weights, so that it is as its library made it.

        Raises:
            UserError: it cannot be put there.
        """

    def error(self, field: str, text: str) -> UserError:
        """An error of one of the method's keys."""
        return UserError(f"{self.key}.{field}: {text}" if field else f"{self.key}: {text}")


def usable(encoder: Encoder) -> set[str]:
    """Names of the encoder's parameters that take part in the output; an unused pooler's do not."""
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
