"""Heads of contrastive tasks, which turn inner products of embeddings into logits.

Legend: B batch, R rows, C labels, P width of the shared space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmft.models.precision import at_least_float32

_LARGEST_SCALE = 100.0  # as in CLIP: beyond it, training is unstable


class SimilarityHead(nn.Module):
    """logit(i, t) = scale <i, t> + bias, with a learned scale (1 / temperature) and, for SigLIP's loss, a bias.

    The scale and bias are folded into the vectors `[scale i, bias]` and `[t, 1]`, whose inner product is the logit, so
    that they cost nothing per pair.
    """

    def __init__(self, temperature: float, bias: float | None, is_default: bool = True) -> None:
        """Args are the initial temperature and bias (None for no bias), and whether a pair's own has priority."""
        super().__init__()
        self.is_default = is_default
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        self.largest = math.log(_LARGEST_SCALE)

    def start_from(self, log_scale: Tensor, bias: Tensor | None) -> None:
        """Starts from a pretrained pair's scale and bias, () each; None: it has no bias.

        A pair's scale may lie above the limit (112 of a SigLIP-SO400M), which is then its own.
        """
        with torch.no_grad():
            if self.is_default:
                self.log_scale.copy_(log_scale)
                self.largest = max(self.largest, float(log_scale))
            if bias is not None and self.bias is not None:
                self.bias.copy_(bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(R, 2 P) embeddings of images, then of texts -> (R, 2 P), or (R, 2 P + 2) with a bias."""
        image, text = embeddings.chunk(2, dim=-1)
        if self.training:
            with torch.no_grad():  # clamp in place, so that the gradient can still leave the limit
                self.log_scale.clamp_(max=self.largest)
        image = image * self.log_scale.exp()  # (R, P): scaling one side scales the product
        if self.bias is None:
            return torch.cat([image, text], dim=-1)
        ones = text.new_ones(text.shape[0], 1)
        return torch.cat([image, self.bias.to(ones) * ones, text, ones], dim=-1)


class PromptHead(nn.Module):
    """Zero-shot logits: an image's inner products with the labels' prompt embeddings, scaled as by `head`.

    Args:
        head: the run's head. Its bias is dropped, because it is the same for all labels.
        texts: (C, P) unit-length label embeddings.
    """

    def __init__(self, head: SimilarityHead, texts: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", texts * head.log_scale.detach().exp().to(texts))
        self.weight: Tensor

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, 2 P) embeddings of images, then of texts -> (B, C)."""
        with torch.autocast(embeddings.device.type, enabled=False):
            image = at_least_float32(embeddings.chunk(2, dim=-1)[0])
            return image @ self.weight.to(image).T  # (B, P) @ (P, C)


def embeddings_of(vectors: Tensor, has_bias: bool) -> tuple[Tensor, Tensor]:
    """Output of a `SimilarityHead`, (R, 2 P) or (R, 2 P + 2) -> unit-length embeddings (R, P) of images and texts."""
    image, text = vectors.chunk(2, dim=-1)
    if has_bias:
        image, text = image[:, :-1], text[:, :-1]
    return functional.normalize(image, dim=-1), functional.normalize(text, dim=-1)
