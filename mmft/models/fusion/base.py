"""The interface of a fusion.

Legend: B batch, F width of the fused features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from mmft.batch import Encoded

Reads = Literal["pooled", "tokens"]


class Fusion(nn.Module, ABC):
    """Couples two encoded modalities. Its constructor takes the encoders' `Widths` as `image` and `text`.

    Attributes:
        reads: which of an encoder's outputs it looks at; a missing modality's learned stand-in takes the place of
            that one (see `StandIn`), so that no parameter is there that nothing reads.
        width: F.
    """

    reads: ClassVar[Reads]
    width: int

    @abstractmethod
    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Encoded image and text -> (B, F)."""
