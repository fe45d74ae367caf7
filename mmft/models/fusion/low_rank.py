"""Low-rank fusion: all products of an image feature and a text feature, with a low-rank weight tensor.

Liu et al. 2018 (arXiv 1806.00064). The outer product of both feature vectors, each with a 1 appended to include the
unimodal terms, would need a weight tensor (D_i + 1, D_t + 1, F). With rank R it is never materialised:

    h = sum over r of (U_r [x_i, 1]) * (V_r [x_t, 1])

Legend: B batch, R rank, D_i D_t pooled widths of image and text, F width of the fused features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import LowRankConfig
from mmft.models.fusion.base import Fusion


class LowRankFusion(Fusion):
    """LayerNorm over `[image, text]`, then the low-rank product and dropout.

    The factors U and V are one linear layer each, whose bias is the weight of the appended 1. The norm is not in the
    paper; it has the same reasons as in `gated`.
    """

    facts = LowRankConfig

    def __init__(self, image: Widths, text: Widths, hidden: int, rank: int, dropout: float) -> None:
        """Args are the encoders' widths, F, R, and the dropout behind the product."""
        super().__init__()
        self.width = hidden
        self.norm = nn.LayerNorm(image.pooled + text.pooled)
        self.image = nn.Linear(image.pooled, rank * hidden)
        self.text = nn.Linear(text.pooled, rank * hidden)
        self.dropout = nn.Dropout(dropout)
        for factor in (self.image, self.text):
            _init(factor, rank)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Pooled (B, D_i) and (B, D_t) -> (B, F)."""
        joined = self.norm(torch.cat([image.pooled, text.pooled], dim=-1))  # (B, D_i + D_t)
        image_x, text_x = joined.split([self.image.in_features, self.text.in_features], dim=-1)
        products = self.image(image_x) * self.text(text_x)  # (B, R F)
        out: Tensor = self.dropout(products.unflatten(-1, (-1, self.width)).sum(dim=1))  # (B, R, F) -> (B, F)
        return out


def _init(factor: nn.Linear, rank: int) -> None:
    """Gives h variance 1 for features of variance 1: it sums R products, so each factor gets variance R ** -0.5.

    Half of that comes from the features and half from the appended 1. With the usual initialisation of a matrix, one 1
    among D features would hardly contribute, and the unimodal terms would almost vanish.
    """
    half = rank**-0.5 / 2
    nn.init.normal_(factor.weight, std=(half / factor.in_features) ** 0.5)
    nn.init.normal_(factor.bias, std=half**0.5)
