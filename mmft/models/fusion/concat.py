"""Concat fusion: an MLP over both pooled features (late fusion).

Legend: B batch, D_i D_t pooled widths of image and text, F width of the fused features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import ConcatConfig
from mmft.models.fusion.base import Fusion


class ConcatFusion(Fusion):
    """LayerNorm, linear, GELU and dropout over `[image, text]`."""

    facts = ConcatConfig

    def __init__(self, image: Widths, text: Widths, hidden: int, dropout: float) -> None:
        """Args are the encoders' widths, the width F of the hidden layer, and the dropout behind it."""
        super().__init__()
        self.width = hidden
        self.norm = nn.LayerNorm(image.pooled + text.pooled)
        self.linear = nn.Linear(image.pooled + text.pooled, hidden)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Pooled (B, D_i) and (B, D_t) -> (B, F)."""
        joined = torch.cat([image.pooled, text.pooled], dim=-1)  # (B, D_i + D_t)
        fused: Tensor = self.dropout(self.activation(self.linear(self.norm(joined))))
        return fused
