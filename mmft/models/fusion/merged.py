"""Merged fusion: one transformer over the tokens of both modalities (as in VisualBERT, arXiv 1908.03557, and in the
multimodal encoder of FLAVA, arXiv 2112.04482).

Legend: B batch, N image tokens, L text tokens, D_i D_t token widths of image and text, F width of the transformer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import MergedConfig
from mmft.models.fusion.blocks import Block
from mmft.models.fusion.one_sequence import OneSequence


class MergedFusion(OneSequence):
    """Prepends a class token to both token sequences and returns its output."""

    facts = MergedConfig

    def __init__(self, image: Widths, text: Widths, width: int, layers: int, heads: int, dropout: float) -> None:
        """Args are the encoders' widths, F, the number of blocks and of their heads (which divides F), and dropout."""
        super().__init__(image, text, width, dropout)
        self.class_token = nn.Parameter(torch.empty(width))
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.class_token, std=0.02)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Tokens (B, N, D_i) and (B, L, D_t) with their masks -> (B, F)."""
        tokens, mask = self.sequence(image, text)
        first = self.class_token.expand(tokens.shape[0], 1, -1)  # (B, 1, F)
        x = self.dropout(torch.cat([first, tokens], dim=1))  # (B, 1 + N + L, F)
        mask = torch.cat([mask.new_ones(mask.shape[0], 1), mask], dim=1)  # (B, 1 + N + L)
        for block in self.blocks:
            x = block(x, mask)
        out: Tensor = self.norm(x[:, 0])  # (B, F) the class token
        return out
