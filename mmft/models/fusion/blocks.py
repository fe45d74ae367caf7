"""Building blocks of fusions that read tokens: projections, attention, blocks, masked mean.

Legend: B batch, N query tokens, M attended tokens, D an encoder's token width, F width of the fusion, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmft.batch import Encoded
from mmft.models.encoder import pool_tokens


class Projection(nn.Sequential):
    """Projects an encoder's tokens to the fusion's width: LayerNorm and linear."""

    def __init__(self, tokens: int, width: int) -> None:
        """Args are D and F."""
        super().__init__(nn.LayerNorm(tokens), nn.Linear(tokens, width))

    def forward(self, encoded: Encoded) -> Tensor:
        """Tokens (B, N, D) -> (B, N, F), finite everywhere.

        Padding is zeroed first: an attention weight of 0 does not hide an inf or nan.
        """
        out: Tensor = super().forward(encoded.tokens.masked_fill(~encoded.mask.unsqueeze(-1), 0))
        return out


class Attention(nn.Module):
    """Multi-head self- or cross-attention with masked keys.

    Queries, keys and values share one weight matrix in either case, as in torch's `MultiheadAttention`.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Args are F, H, and the dropout of attention weights and of the output.

        Raises:
            ValueError: `heads` does not divide `width`.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_dropout = dropout
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Attends from `x` to `context`, or to `x` itself.

        Args:
            x: (B, N, F) query tokens.
            mask: (B, M) bool of the attended tokens, True = real token, at least one per row.
            context: (B, M, F) attended tokens; None for `x` itself, M = N.

        Returns:
            (B, N, F).
        """
        f = x.shape[-1]
        if context is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)  # (B, N, F) each
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = functional.linear(x, weight[:f], bias[:f])  # (B, N, F)
            k, v = functional.linear(context, weight[f:], bias[f:]).chunk(2, dim=-1)  # (B, M, F) each
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, H, ., F / H)
        dropped = self.attention_dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :], dropout_p=dropped)
        out: Tensor = self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))  # (B, N, F)
        return out


class Block(nn.Module):
    """A pre-norm transformer block (Xiong et al. 2020, arXiv 2002.04745), which trains without warm-up.

    Not torch's `TransformerEncoderLayer`, whose eval mode takes another code path with different rounding.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Args are F, H, and the dropout of attention weights and of both branches."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = mlp(width, dropout)

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Updates all tokens of `x`.

        Args:
            x: (B, N, F).
            mask: (B, N) bool, True = real token; with a context (B, M + N).
            context: (B, M, F), normed: tokens that `x` attends to besides itself; they are not updated.

        Returns:
            (B, N, F).
        """
        normed = self.norm1(x)
        seen = None if context is None else torch.cat([context, normed], dim=1)  # (B, M + N, F)
        x = x + self.attention(normed, mask, seen)  # without a context, self-attention
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def mlp(width: int, dropout: float) -> nn.Sequential:
    """A transformer's MLP: (..., F) -> (..., F), with a hidden width of 4 F."""
    return nn.Sequential(
        nn.Linear(width, 4 * width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(4 * width, width),
        nn.Dropout(dropout),
    )


def mean_of_real(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens: (B, N, F) and (B, N) bool, True = real token -> (B, F)."""
    return pool_tokens(x, mask, "mean", prefix=0)
