"""Fusions by themselves: small ones of every kind, and encoded modalities to give them.

Legend: B batch, N image tokens, L text tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import mmft.config.schema  # noqa: F401 - the options register
from mmft.batch import Encoded, Widths
from mmft.config.own_options import imported
from mmft.config.registry import options
from mmft.models.fusion.base import Fusion

PAIRWISE = [name for name, found in options("model/fusion").items() if found.schema.embeds_apart]  # type: ignore[attr-defined]
OF_PAIRS = [name for name, found in options("model/fusion").items() if found.schema.of_pair]  # type: ignore[attr-defined]
GENERATIVE = [name for name, found in options("model/fusion").items() if found.schema.generates]  # type: ignore[attr-defined]
OTHERS = PAIRWISE + OF_PAIRS + GENERATIVE  # tests/models/test_pairs.py, tests/models/language/test_generative_model.py
FUSIONS = [name for name in options("model/fusion") if name not in OTHERS]
LEARNED = [name for name in FUSIONS if name != "linear"]  # of parameters
B, N, L = 4, 5, 8  # rows, image and text tokens
SMALL: dict[str, dict[str, Any]] = {
    "merged": {"width": 32, "heads": 2},
    "film": {"width": 32},
    "low_rank": {"hidden": 32},
    "cross": {"width": 32, "heads": 2},
    "resampler": {"width": 32, "heads": 2, "queries": 4},
}
CLASSES = {name: imported(str(found.builds)) for name, found in options("model/fusion").items()}
TOKENS = [name for name in FUSIONS if CLASSES[name].facts.reads == "tokens"]


def small(fusion: str) -> list[str]:
    """What is typed for a small one."""
    return [f"model.fusion.{key}={value}" for key, value in SMALL.get(fusion, {}).items()]


def alone(fusion: str, dropout: float = 0.0, **more: Any) -> Fusion:
    """A small fusion of tokens that are 8 and 12 wide, with values where it starts with zeros."""
    defaults = dataclasses.asdict(options("model/fusion")[fusion].schema())
    arguments = defaults | SMALL.get(fusion, {}) | more | {"dropout": dropout}
    made: Fusion = moved(CLASSES[fusion](image=Widths(8, 8), text=Widths(12, 12), **arguments))
    return made


def moved(module: nn.Module) -> Any:
    """`module` as after some steps: what starts with zeros would hide what is behind it (FiLM's text)."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module


def encoded(length: int, width: int, real: Sequence[int] | None = None) -> Encoded:
    """B rows of so many tokens, of which so many are real; None: all."""
    tokens = torch.randn(B, length, width, generator=torch.Generator().manual_seed(width))
    mask = torch.arange(length) < torch.tensor(real or [length] * B)[:, None]
    return Encoded(tokens, mask, tokens[:, 0])


def double(side: Encoded) -> Encoded:
    """In float64."""
    return Encoded(side.tokens.double(), side.mask, side.pooled.double())


def with_padding(side: Encoded, length: int, content: float) -> Encoded:
    """Padded to `length` with tokens of this content."""
    real = side.tokens.shape[1]
    tokens = torch.full((B, length, side.tokens.shape[2]), content)
    tokens[:, :real] = side.tokens
    return Encoded(tokens, torch.arange(length).expand(B, -1) < real, side.pooled)
