"""Base of fusions that concatenate the tokens of both modalities into one sequence.

Legend: B batch, N image tokens, L text tokens, D_i D_t token widths of image and text, F width of the fusion.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.models.fusion.base import Fusion
from mmft.models.fusion.blocks import Projection


class OneSequence(Fusion):
    """Base: projects both token sequences to one width and adds modality embeddings.

    Positions are already in the encoders' tokens. Padding is masked. A missing modality is one learned token (see
    `StandIn`), so that the fusion can recognise it, as those that read pooled features can.
    """

    def __init__(self, image: Widths, text: Widths, width: int, dropout: float) -> None:
        """Args are the encoders' widths, F, and the dropout of tokens."""
        super().__init__()
        self.width = width
        self.image = Projection(image.tokens, width)
        self.text = Projection(text.tokens, width)
        self.modality = nn.Embedding(2, width)  # 0 image, 1 text
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.modality.weight, std=0.02)

    def sequence(self, image: Encoded, text: Encoded) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D_i) and (B, L, D_t) -> one sequence (B, N + L, F) and its mask, True = real token."""
        parts = [self.image(image) + self.modality.weight[0], self.text(text) + self.modality.weight[1]]
        return torch.cat(parts, dim=1), torch.cat([image.mask, text.mask], dim=1)
