"""Projector: image tokens as tokens of a language model.

A linear layer as in LLaVA (Liu et al. 2023, arXiv 2304.08485), or the two layers with GELU of LLaVA 1.5 (arXiv
2310.03744). Pixel shuffle is that of InternVL (arXiv 2404.16821): fewer tokens, from which nothing is lost.

Legend: B batch, N image tokens, M tokens that the language model reads, D_i D_t widths of image encoder and language
model.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import ProjectorConfig
from mmft.errors import UserError
from mmft.models.fusion.base import TokenProjection


class Projector(TokenProjection):
    """Image tokens (B, N, D_i) -> embeddings of a language model (B, M, D_t).

    The language model itself combines them with the text: see `mmft.models.language.generative_model`.
    """

    facts = ProjectorConfig

    def __init__(self, image: Widths, text: Widths, layers: str, tokens: str, prefix: int = 0) -> None:
        """Args are the encoders' widths, `linear` or `mlp`, which tokens, and how many stand before the patches."""
        super().__init__()
        self.width, self.tokens, self.prefix = text.tokens, tokens, prefix
        given = image.tokens * (4 if tokens == "pixel_shuffle" else 1)
        hidden = [nn.Linear(given, text.tokens), nn.GELU()] if layers == "mlp" else []
        self.layers = nn.Sequential(*hidden, nn.Linear(text.tokens if hidden else given, text.tokens))

    def project(self, image: Encoded) -> Tensor:
        """Tokens (B, N, D_i) -> (B, M, D_t)."""
        patches = image.tokens[:, self.prefix :] if image.tokens.shape[1] > self.prefix else image.tokens
        found: Tensor = self.layers(patches if self.tokens == "all" else self._fewer(patches))
        return found

    def _fewer(self, patches: Tensor) -> Tensor:
        """(B, N, D_i) -> (B, N / 4, D_i or 4 D_i); with an odd side, the last row and column are left out."""
        batch, count, width = patches.shape
        side = math.isqrt(count)
        if side * side != count or side < 2:
            raise UserError(
                f"model.fusion.tokens={self.tokens}: the image encoder's {count} tokens are no square of patches. "
                "Type model.fusion.tokens=all"
            )
        half = side // 2
        grid = patches.view(batch, side, side, width)[:, : 2 * half, : 2 * half]
        squares = grid.reshape(batch, half, 2, half, 2, width).transpose(2, 3)  # (B, half, half, 2, 2, D_i)
        if self.tokens == "pooled":
            return squares.mean(dim=(3, 4)).flatten(1, 2)
        return squares.flatten(3).flatten(1, 2)
