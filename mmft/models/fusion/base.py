"""The interface of a fusion.

Legend: B batch, F width of the fused features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from mmft.batch import Encoded
from mmft.config.schema.fusion import FusionConfig

Reads = Literal["pooled", "tokens"]


class Fusion(nn.Module, ABC):
    """Couples two encoded modalities. Its constructor takes the encoders' `Widths` as `image` and `text`.

    Attributes:
        facts: its config's class, which says what it reads and what tasks it is for.
        width: F.
    """

    facts: ClassVar[type[FusionConfig]]
    width: int

    @property
    def reads(self) -> Reads:
        """Which of an encoder's outputs it looks at.

        A missing modality's learned stand-in takes the place of that one (see `StandIn`), so that no parameter is
        there that nothing reads.
        """
        return self.facts.reads

    @abstractmethod
    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Encoded image and text -> (B, F)."""
