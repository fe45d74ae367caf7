"""Cross fusion: two streams that attend to each other (co-attention).

As in ViLBERT (Lu et al. 2019, arXiv 1908.02265). A layer's order follows the cross-modality encoder of LXMERT (Tan and
Bansal 2019, arXiv 1908.07490): cross-attention into the other stream, self-attention, MLP.

Legend: B batch, N image tokens, L text tokens, D_i D_t token widths of image and text, F width of a stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import CrossConfig
from mmft.models.fusion.base import Fusion
from mmft.models.fusion.blocks import Attention, Block, Projection, mean_of_real


class CoAttention(nn.Module):
    """One pre-norm layer of both streams, each with its own weights."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Args are F, the number of heads (which divides F), and the dropout of attention weights and branches."""
        super().__init__()
        self.image_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.image_cross, self.text_cross = (Attention(width, heads, dropout) for _ in range(2))
        self.image_block, self.text_block = (Block(width, heads, dropout) for _ in range(2))

    def forward(self, image: Tensor, text: Tensor, image_mask: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, F) and (B, L, F) with (B, N) and (B, L) bool, True = real token -> both streams, same shapes.

        Each attends to the other stream as it was before this layer.
        """
        image_seen, text_seen = self.image_norm(image), self.text_norm(text)  # both before either is updated
        image = image + self.image_cross(image_seen, text_mask, text_seen)
        text = text + self.text_cross(text_seen, image_mask, image_seen)
        return self.image_block(image, image_mask), self.text_block(text, text_mask)


class CrossFusion(Fusion):
    """Projects both token sequences to one width and returns the mean of each stream's real tokens.

    A missing modality is a stream of one learned token (see `StandIn`), so there is always a token to attend to.
    """

    facts = CrossConfig

    def __init__(self, image: Widths, text: Widths, width: int, layers: int, heads: int, dropout: float) -> None:
        """Args are the encoders' widths, F, the number of layers and of heads (which divides F), and dropout."""
        super().__init__()
        self.width = 2 * width
        self.image = Projection(image.tokens, width)
        self.text = Projection(text.tokens, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList([CoAttention(width, heads, dropout) for _ in range(layers)])
        self.image_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Tokens (B, N, D_i) and (B, L, D_t) with their masks -> (B, 2 F), the image's half first."""
        x, y = self.dropout(self.image(image)), self.dropout(self.text(text))  # (B, N, F) and (B, L, F)
        for layer in self.layers:
            x, y = layer(x, y, image.mask, text.mask)  # shapes stay
        means = [self.image_norm(mean_of_real(x, image.mask)), self.text_norm(mean_of_real(y, text.mask))]
        return torch.cat(means, dim=-1)
