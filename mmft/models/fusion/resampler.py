"""Resampler fusion: learned queries collect information from the tokens of both modalities.

The Perceiver resampler of Flamingo (Alayrac et al. 2022, arXiv 2204.14198), over image and text tokens at once; the
queries of BLIP-2's Q-Former (Li et al. 2023, arXiv 2301.12597) serve the same purpose. Its cost is linear in the
number of tokens, where that of `merged` is quadratic.

Legend: B batch, Q queries, N image tokens, L text tokens, D_i D_t token widths of image and text, F width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import ResamplerConfig
from mmft.models.fusion.blocks import Block
from mmft.models.fusion.one_sequence import OneSequence


class ResamplerFusion(OneSequence):
    """In each block the queries attend to all tokens and to one another, in one attention as in Flamingo.

    The tokens are not updated, so one norm serves all blocks. Returns the mean of the queries.
    """

    facts = ResamplerConfig

    def __init__(
        self, image: Widths, text: Widths, width: int, queries: int, layers: int, heads: int, dropout: float
    ) -> None:
        """Args are the encoders' widths, F, Q, the number of blocks and of their heads (which divides F), dropout."""
        super().__init__(image, text, width, dropout)
        self.queries = nn.Parameter(torch.empty(queries, width))
        self.tokens_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Tokens (B, N, D_i) and (B, L, D_t) with their masks -> (B, F)."""
        tokens, mask = self.sequence(image, text)
        tokens = self.dropout(self.tokens_norm(tokens))  # (B, N + L, F)
        x = self.queries.expand(tokens.shape[0], -1, -1)  # (B, Q, F)
        mask = torch.cat([mask, mask.new_ones(x.shape[:2])], dim=1)  # (B, N + L + Q): blocks append x to the context
        for block in self.blocks:
            x = block(x, mask, tokens)  # only the queries are updated
        out: Tensor = self.norm(x.mean(dim=1))  # (B, F)
        return out
