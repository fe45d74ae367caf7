"""Draws the next token of each row, as a function of seed, row and position.

Legend: B batch, L generated tokens so far, V vocabulary, K tokens to draw among.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmft.config.schema.decoding import DecodingConfig

Processor = Callable[[Tensor, Tensor], Tensor]
"""As in transformers: generated tokens (B, L) and scores (B, V) of the next one -> (B, V) scores."""
_LIKELIEST = 1024
_ROUNDING = 1e-5  # of a sum of probabilities; transformers' own is in float32


class Candidates(NamedTuple):
    """The tokens to draw among."""

    tokens: Tensor  # (B, K) int64, in increasing order
    scores: Tensor  # (B, K), minus infinity for a token that is none


class Sampling:
    """A processor that draws the next token, so that greedy decoding takes it.

    The draw of a row is a function of seed, row number and position. (With transformers' own sampling it would depend
    on the other rows of the batch.)

    Args:
        options: of which temperature, top_k, top_p and seed are read.
        rows: (B,) row numbers.
    """

    def __init__(self, options: DecodingConfig, rows: Tensor) -> None:
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper

        self._seed, self._rows, self._top_p = options.sampling_seed, rows.tolist(), options.top_p
        self._warpers: list[Processor] = [TemperatureLogitsWarper(options.temperature)]
        if options.top_k is not None:
            self._warpers.append(TopKLogitsWarper(options.top_k))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) 0 for the drawn token, minus infinity for the others."""
        for warp in self._warpers:
            scores = warp(input_ids, scores)
        found = candidates(scores, self._top_p)
        position = input_ids.shape[1]
        drawn = [[np.random.default_rng([self._seed, row, position]).random()] for row in self._rows]
        chances = found.scores.double().softmax(-1).cumsum(-1)  # (B, K)
        wanted = torch.tensor(drawn, dtype=torch.float64, device=scores.device) * chances[:, -1:]
        place = torch.searchsorted(chances, wanted, right=True)  # (B, 1) the first whose sum is above what was drawn
        return torch.full_like(scores, -torch.inf).scatter_(1, found.tokens.gather(1, place), 0)


def candidates(scores: Tensor, top_p: float | None) -> Candidates:
    """The tokens that transformers' TopPLogitsWarper leaves, (B, V) -> (B, K); all if there is no `top_p`."""
    if top_p is not None and (found := _among_the_likeliest(scores, top_p)) is not None:
        return found
    if top_p is not None:
        from transformers import TopPLogitsWarper

        scores = TopPLogitsWarper(top_p)(None, scores)
    return Candidates(torch.arange(scores.shape[1], device=scores.device).expand_as(scores), scores)


def _among_the_likeliest(scores: Tensor, top_p: float) -> Candidates | None:
    """The same without sorting the whole vocabulary; None if rounding or a tie could make a difference."""
    count = min(_LIKELIEST, scores.shape[1])
    highest, tokens = scores.topk(count)  # (B, K) each, the likeliest first
    chances = (highest.double() - scores.double().logsumexp(-1, keepdim=True)).exp()
    sums = chances.cumsum(-1)  # (B, K)
    last = (sums < top_p).sum(-1, keepdim=True)  # (B, 1) place of the last token that is left
    if int(last.max()) >= count - 1 or bool(((sums - top_p).abs() < _ROUNDING).any()):
        return None
    if bool((highest.gather(1, last) == highest.gather(1, last + 1)).any()):
        return None
    left = int(last.max()) + 1
    places = torch.arange(left, device=scores.device)  # (K,)
    highest = highest[:, :left].masked_fill(places > last, -torch.inf)
    tokens, order = tokens[:, :left].sort()
    return Candidates(tokens, highest.gather(1, order))
