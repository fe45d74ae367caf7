"""Extends attention masks for learned tokens, or learned keys, in front of the others.

A mask keeps its library's convention: True or 1 = attended, or a float that is added to the scores, 0 = attended.

Legend: B batch, A attention heads or 1, Q queries, K keys, P learned tokens or keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def with_keys(mask: Tensor, length: int) -> Tensor:
    """Adds P keys that every query attends to: (..., Q, K) -> (..., Q, P + K)."""
    return torch.cat([_seen(mask, (*mask.shape[:-1], length)), mask], dim=-1)


def with_tokens(mask: Tensor, length: int, causal: bool) -> Tensor:
    """Adds P tokens that all others attend to: (B, A, Q, K) -> (B, A, P + Q, P + K).

    Args:
        mask: Q is K, or 1 if the mask is the same for every query.
        length: P.
        causal: learned tokens attend to earlier ones only; otherwise to one another and to every unmasked token.
    """
    keys = with_keys(mask, length)
    if mask.shape[-2] == 1 and mask.shape[-1] != 1 and not causal:
        return keys
    if causal:
        shape = (*mask.shape[:-2], length, keys.shape[-1])
        visible = torch.ones(shape[-2:], dtype=torch.bool, device=mask.device).tril().expand(shape)
        queries = torch.where(visible, _seen(mask, shape), _unseen(mask, shape))
    else:
        anyone = keys.amax(-2, keepdim=True)  # (B, A, 1, P + K) keys that some query attends to
        queries = anyone.expand(*anyone.shape[:-2], length, -1)
    return torch.cat([queries, keys], dim=-2)


def causal_with_keys(queries: int, length: int, device: torch.device) -> Tensor:
    """The mask of `is_causal` plus P keys that every query attends to: (Q, P + Q) bool."""
    return with_keys(torch.ones(queries, queries, dtype=torch.bool, device=device).tril(), length)


def _seen(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return like.new_zeros(shape) if like.is_floating_point() else like.new_ones(shape)


def _unseen(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    if like.is_floating_point():
        return like.new_full(shape, torch.finfo(like.dtype).min)
    return like.new_zeros(shape)
