"""Merged fusion: one transformer over the tokens of both modalities (as in VisualBERT, arXiv 1908.03557, and in the
multimodal encoder of FLAVA, arXiv 2112.04482).

Legend: B batch, N image tokens, L text tokens, D_i D_t token widths of image and text, F width of the transformer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.models.fusion.base import Fusion
from mmft.models.fusion.blocks import Block


class MergedFusion(Fusion):
    """Projects both token sequences to one width, says which is which, and reads out a class token.

    The encoders have given their tokens positions already. Padding is hidden by the mask; a missing modality is one
    learned token (see `StandIn`) and not an empty place, so that the transformer is told that it is missing, as the
    pooled fusions are.
    """

    reads = "tokens"

    def __init__(self, image: Widths, text: Widths, width: int, layers: int, heads: int, dropout: float) -> None:
        """Args are the encoders' widths, F, the number of blocks and of their heads, and dropout.

        Raises:
            ValueError: `heads` does not divide `width`.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of heads {heads}")
        self.width = width
        self.image = nn.Sequential(nn.LayerNorm(image.tokens), nn.Linear(image.tokens, width))
        self.text = nn.Sequential(nn.LayerNorm(text.tokens), nn.Linear(text.tokens, width))
        self.modality = nn.Embedding(2, width)
        self.class_token = nn.Parameter(torch.empty(width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        for embedding in (self.modality.weight, self.class_token):
            nn.init.normal_(embedding, std=0.02)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Tokens (B, N, D_i) and (B, L, D_t) with their masks -> (B, F)."""
        parts = [self.image(_real(image)) + self.modality.weight[0], self.text(_real(text)) + self.modality.weight[1]]
        first = self.class_token.expand(len(image.mask), 1, -1)  # (B, 1, F)
        x = self.dropout(torch.cat([first, *parts], dim=1))  # (B, 1 + N + L, F)
        mask = torch.cat([image.mask.new_ones(len(image.mask), 1), image.mask, text.mask], dim=1)
        for block in self.blocks:
            x = block(x, mask)
        out: Tensor = self.norm(x[:, 0])
        return out


def _real(encoded: Encoded) -> Tensor:
    """Tokens (B, N, D) with zeros in the place of padding: an attention weight of 0 does not hide an inf or nan."""
    return encoded.tokens.masked_fill(~encoded.mask.unsqueeze(-1), 0)
