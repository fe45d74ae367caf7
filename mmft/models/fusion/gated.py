"""Gated fusion: a gate per feature weighs the two modalities of each row.

The gated multimodal unit of Arevalo et al. 2017 (arXiv 1702.01992), in its bimodal form:

    h_i = tanh(W_i x_i)    h_t = tanh(W_t x_t)    z = sigmoid(W_z [x_i, x_t])    h = z * h_i + (1 - z) * h_t

Legend: B batch, D_i D_t pooled widths of image and text, F width of the fused features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import GatedConfig
from mmft.models.fusion.base import Fusion


class GatedFusion(Fusion):
    """LayerNorm over `[image, text]`, then the gated multimodal unit and dropout.

    The paper has no norm, but without one large pretrained features would saturate the tanh. It is one norm over both
    modalities, as in `concat`: a stand-in of zeros alone has no variance to divide by.
    """

    facts = GatedConfig

    def __init__(self, image: Widths, text: Widths, hidden: int, dropout: float) -> None:
        """Args are the encoders' widths, the width F of the gated features, and the dropout behind them."""
        super().__init__()
        self.width = hidden
        self.norm = nn.LayerNorm(image.pooled + text.pooled)
        self.image = nn.Linear(image.pooled, hidden)
        self.text = nn.Linear(text.pooled, hidden)
        self.gate = nn.Linear(image.pooled + text.pooled, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Pooled (B, D_i) and (B, D_t) -> (B, F)."""
        joined = self.norm(torch.cat([image.pooled, text.pooled], dim=-1))  # (B, D_i + D_t)
        image_x, text_x = joined.split([self.image.in_features, self.text.in_features], dim=-1)  # (B, D_i), (B, D_t)
        gate = torch.sigmoid(self.gate(joined))  # (B, F) near 1: the image; near 0: the text
        fused = gate * torch.tanh(self.image(image_x)) + (1 - gate) * torch.tanh(self.text(text_x))
        out: Tensor = self.dropout(fused)
        return out
