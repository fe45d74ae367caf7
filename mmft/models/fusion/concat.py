"""Concat fusion: an MLP over both pooled features (late fusion).

Legend: B batch, D_i D_t pooled widths of image and text, F width of the fused features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Encoded


class ConcatFusion(nn.Module):
    """LayerNorm, linear, GELU and dropout over `[image, text]`."""

    def __init__(self, image_width: int, text_width: int, hidden: int, dropout: float) -> None:
        """Args are the pooled widths, the width F of the hidden layer, and the dropout behind it."""
        super().__init__()
        self.width = hidden
        self.norm = nn.LayerNorm(image_width + text_width)
        self.linear = nn.Linear(image_width + text_width, hidden)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Pooled (B, D_i) and (B, D_t) -> (B, F)."""
        joined = torch.cat([image.pooled, text.pooled], dim=-1)  # (B, D_i + D_t)
        fused: Tensor = self.dropout(self.activation(self.linear(self.norm(joined))))
        return fused
