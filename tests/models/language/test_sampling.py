"""Sampling among the likeliest tokens draws what sampling among all of them does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mmft.config.schema.decoding import DecodingConfig
from mmft.models.language import sampling
from mmft.models.language.sampling import Sampling, candidates

ROWS = 8


def scores_of(kind: str, vocabulary: int = 3000) -> Tensor:
    """(B, V) of a language model that is sure, unsure, sees no difference, or may write few tokens."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(ROWS, vocabulary, generator=generator)
    if kind == "sure":
        return 6 * scores
    if kind == "unsure":
        return scores / 4
    if kind == "ties":
        return (2 * scores).round()
    if kind == "constrained":
        return (4 * scores).masked_fill(torch.rand(scores.shape, generator=generator) < 0.99, -torch.inf)
    return torch.zeros(ROWS, vocabulary)


def drawn_among_all(options: DecodingConfig, scores: Tensor, position: int) -> list[int]:
    """By transformers' own warpers, one after the other, and a search in the sums of all tokens' probabilities."""
    found = TemperatureLogitsWarper(options.temperature)(None, scores)
    if options.top_k is not None:
        found = TopKLogitsWarper(options.top_k)(None, found)
    if options.top_p is not None:
        found = TopPLogitsWarper(options.top_p)(None, found)
    sums = found.double().softmax(-1).cumsum(-1)
    draws = [np.random.default_rng([options.sampling_seed, row, position]).random() for row in range(ROWS)]
    wanted = torch.tensor(draws, dtype=torch.float64)[:, None] * sums[:, -1:]
    return [int(place) for place in torch.searchsorted(sums, wanted, right=True)]


KINDS = ["sure", "unsure", "ties", "constrained", "flat"]
OPTIONS: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"top_p": 0.1}, {"top_p": 1.0}, {"top_k": 20, "top_p": 0.7}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokens_are_drawn(kind: str, options: dict[str, Any]) -> None:
    config = DecodingConfig(temperature=0.8, sampling_seed=3, **options)
    scores, draw = scores_of(kind), Sampling(config, torch.arange(ROWS))
    found = [
        [int(token) for token in draw(torch.zeros(ROWS, place, dtype=torch.int64), scores).argmax(-1)]
        for place in range(20)
    ]
    assert found == [drawn_among_all(config, scores, place) for place in range(20)]
    assert len({token for tokens in found for token in tokens}) > 1


def test_few_tokens_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as they are certain to be those of transformers: else the whole vocabulary is sorted."""
    sure = candidates(scores_of("sure"), 0.9)
    expected = TopPLogitsWarper(0.9)(None, scores_of("sure"))
    assert sure.tokens.shape[1] == int((expected > -torch.inf).sum(1).max()) < 200
    for row, (tokens, scores) in enumerate(zip(*sure, strict=True)):
        assert tokens[scores > -torch.inf].tolist() == (expected[row] > -torch.inf).nonzero().squeeze(1).tolist()
    assert candidates(scores_of("unsure"), 0.9).tokens.shape[1] == 3000
    monkeypatch.setattr(sampling, "_ROUNDING", 0.05)
    assert candidates(scores_of("sure"), 0.9).tokens.shape[1] == 3000
