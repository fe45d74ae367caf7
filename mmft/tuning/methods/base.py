"""The interface of a tuning method, which may modify an encoder and selects its trained parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from mmft.errors import UserError
from mmft.models.encoder import Encoder
from mmft.models.frozen_layers import FrozenLayers


class Start(NamedTuple):
    """When training of a layer starts, in epochs or optimizer steps.

    Attributes:
        at: start; 0 for the first step.
        unit: unit of `at`, `epoch` or `step`.
        warmup: optimizer steps of learning-rate warm-up from the start.
    """

    at: int = 0
    unit: str = "epoch"
    warmup: int = 0


class TuningMethod(ABC):
    """How one encoder is tuned.

    Args:
        key: the method's config key, for messages: `tune.image_encoder`.
        lr: the encoder's own learning rate; None for `optim.lr`, else `default_lr`.

    Attributes:
        name: as in the config.
        default_lr: default learning rate of the method.
        trains_layers: whether it trains weights of the encoder's linear layers.
        kept_factors: modules of added parameters that stay as tuned when the encoder is interpolated with its start.
            The added change must be linear in the others.
    """

    name: ClassVar[str]
    default_lr: ClassVar[float]
    trains_layers: ClassVar[bool] = True
    kept_factors: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, key: str, lr: float | None = None) -> None:
        self.key = key
        self.lr = lr

    def frozen_layers(self) -> FrozenLayers | None:
        """How the encoder's linear layers are kept from loading on; None in float32."""
        return None if self.trains_layers else FrozenLayers()

    def apply(self, encoder: Encoder) -> None:  # noqa: B027 - most methods add nothing
        """Adds the method's modules to the encoder; names of existing modules and the output's form are kept.

        Raises:
            UserError: the method does not fit the encoder.
        """

    @abstractmethod
    def trained(self, encoder: Encoder) -> set[str]:
        """Names of the parameters of `encoder`, after `apply`, that are trained at any time.

        Raises:
            UserError: there are none.
        """

    def interpolated(self, encoder: Encoder) -> set[str]:
        """Names of the trained parameters in which the encoder is interpolated with its start, one by one."""
        return {name for name in self.trained(encoder) if self.kept_factors.isdisjoint(name.split("."))}

    def starts(self, encoder: Encoder) -> dict[int, Start]:
        """Start of each layer that is not trained from the first step, by layer number."""
        return {}

    def merge(self, encoder: Encoder) -> None:  # noqa: B027 - and have nothing to merge
        """Merges what was learned into the encoder's own weights, restoring the library's architecture.

        Raises:
            UserError: the method cannot be merged.
        """

    def error(self, field: str, text: str) -> UserError:
        """An error about one of the method's keys, or about the method if `field` is empty."""
        return UserError(f"{self.key}.{field}: {text}" if field else f"{self.key}: {text}")


def usable(encoder: Encoder) -> set[str]:
    """Names of the encoder's parameters that contribute to the output; an unused pooler's do not."""
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
