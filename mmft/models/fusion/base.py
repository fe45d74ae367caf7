"""The fusion interface.

Legend: B batch, F width of the fused features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from mmft.batch import Encoded
from mmft.config.schema.fusion import FusionConfig
from mmft.config.wording import kind_of
from mmft.errors import UserError

Reads = Literal["pooled", "tokens"]


class Fusion(nn.Module, ABC):
    """Combines two encoded modalities. Its constructor takes the encoders' `Widths` as `image` and `text`.

    Attributes:
        facts: the config class, which declares what the fusion reads and which tasks it supports.
        width: F.
    """

    facts: ClassVar[type[FusionConfig]]
    width: int

    @property
    def reads(self) -> Reads:
        """Which of an encoder's outputs the fusion reads.

        A missing modality's learned stand-in replaces only that output (see `StandIn`), so that it is always used.
        """
        return self.facts.reads

    @abstractmethod
    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Encoded image and text -> (B, F)."""

    def checked(self, fused: Tensor) -> Tensor:
        """What `forward` gave, (B, F).

        Raises:
            UserError: it is something else, in a fusion of a user's.
        """
        if isinstance(fused, Tensor) and fused.shape[-1] == self.width:
            return fused
        gives = f"{tuple(fused.shape)}" if isinstance(fused, Tensor) else kind_of(fused)
        name, width = type(self).__name__, self.width
        raise UserError(f"model.fusion: {name}.forward gives {gives}, and its width is {width}; (B, {width}) is needed")


class TokenProjection(Fusion):
    """Turns image tokens into what a language model reads, which itself combines them with the text."""

    def forward(self, image: Encoded) -> Tensor:  # type: ignore[override] # the text comes in after it
        """As `project`."""
        return self.project(image)

    @abstractmethod
    def project(self, image: Encoded) -> Tensor:
        """Image tokens (B, N, D) -> (B, M, W)."""
