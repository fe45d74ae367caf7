"""The head of a task over pairs: how an inner product of embeddings becomes a logit.

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

    It gives each embedding as a vector whose inner product with another one's is their logit, so that scale and bias
    cost nothing over all pairs: `[scale i, bias]` and `[t, 1]`.
    """

    def __init__(self, temperature: float, bias: float | None) -> None:
        """Args are what both begin with; None: there is no bias."""
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(R, 2 P) embeddings of images, then of texts -> (R, 2 P), or (R, 2 P + 2) with a bias."""
        image, text = embeddings.chunk(2, dim=-1)
        if self.training:
            with torch.no_grad():  # in place: a gradient at the limit can lead back from it
                self.log_scale.clamp_(max=math.log(_LARGEST_SCALE))
        image = image * self.log_scale.exp()
        if self.bias is None:
            return torch.cat([image, text], dim=-1)
        ones = text.new_ones(len(text), 1)
        return torch.cat([image, self.bias.to(ones) * ones, text, ones], dim=-1)


class PromptHead(nn.Module):
    """Logits of labels: an image's inner products with the embeddings of the labels' prompts, as `head` scales them.

    Args:
        head: the run's. Its bias is left out: it is the same for all labels.
        texts: (C, P) of the labels, of length 1.
    """

    def __init__(self, head: SimilarityHead, texts: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", texts * head.log_scale.detach().exp().to(texts))
        self.weight: Tensor

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, 2 P) embeddings of images, then of texts -> (B, C)."""
        with torch.autocast(embeddings.device.type, enabled=False):
            image = at_least_float32(embeddings.chunk(2, dim=-1)[0])
            return image @ self.weight.to(image).T


def embeddings_of(vectors: Tensor, has_bias: bool) -> tuple[Tensor, Tensor]:
    """What a `SimilarityHead` gave, (R, 2 P) or (R, 2 P + 2) -> (R, P) embeddings of images and texts, of length 1."""
    image, text = vectors.chunk(2, dim=-1)
    if has_bias:
        image, text = image[:, :-1], text[:, :-1]
    return functional.normalize(image, dim=-1), functional.normalize(text, dim=-1)
