"""Attention blocks for fusions that read tokens.

Legend: B batch, N tokens, F width, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Multi-head self-attention in which no token looks at a masked one."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Args are F, H (which divides F), and the dropout of attention weights and of the output."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_dropout = dropout
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, N, F) and (B, N) bool, True = real token, at least one a row -> (B, N, F)."""
        b, n, f = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, f // self.heads).permute(2, 0, 3, 1, 4)  # (B, H, N, F / H) each
        dropped = self.attention_dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :], dropout_p=dropped)
        out: Tensor = self.dropout(self.proj(mixed.transpose(1, 2).reshape(b, n, f)))
        return out


class Block(nn.Module):
    """A transformer block with the norms in front (Xiong et al. 2020, arXiv 2002.04745): it trains without warm-up.

    Not torch's `TransformerEncoderLayer`: in eval mode that takes another path, with other rounding, than in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Args are F, H, and the dropout of attention weights and of both branches."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, N, F) and (B, N) bool, True = real token -> (B, N, F)."""
        x = x + self.attention(self.norm1(x), mask)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
