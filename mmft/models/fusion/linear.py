"""Linear fusion: both pooled features side by side.

Legend: B batch, D_i D_t pooled widths of image and text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import LinearConfig
from mmft.models.fusion.base import Fusion


class LinearFusion(Fusion):
    """`[image, text]`, so that a linear head is linear in the encoders' features."""

    facts = LinearConfig

    def __init__(self, image: Widths, text: Widths) -> None:
        """Args are the encoders' widths."""
        super().__init__()
        self.width = image.pooled + text.pooled

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Pooled (B, D_i) and (B, D_t) -> (B, D_i + D_t)."""
        return torch.cat([image.pooled, text.pooled], dim=-1)
