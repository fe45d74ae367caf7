"""Dual fusion: two separate projections into one space, compared by inner products (CLIP, arXiv 2103.00020).

Legend: B batch, D_i D_t pooled widths of image and text, P width of the shared space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import DualConfig
from mmft.models.fusion.base import Fusion
from mmft.models.precision import at_least_float32


class DualFusion(Fusion):
    """LayerNorm (unless left out), dropout and a projection of each pooled feature, scaled to unit length.

    A row's image and text embeddings do not depend on each other, so that any image can be compared with any text. The
    norm makes the projection independent of the scale of pretrained features.
    """

    facts = DualConfig

    def __init__(
        self,
        image: Widths,
        text: Widths,
        width: int,
        hidden: int | None,
        dropout: float,
        norm: bool = True,
        bias: bool = True,
    ) -> None:
        """Makes the projections.

        Args:
            image: widths of the image encoder.
            text: widths of the text encoder.
            width: P.
            hidden: width of a hidden layer; None for none.
            dropout: before the last linear layer.
            norm: whether each projection begins with a LayerNorm.
            bias: whether its linear layers have a bias.
        """
        super().__init__()
        self.width = 2 * width
        self.image = _projection(image.pooled, width, hidden, dropout, norm, bias)
        self.text = _projection(text.pooled, width, hidden, dropout, norm, bias)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Pooled (B, D_i) and (B, D_t) -> (B, 2 P): the image's embedding, then the text's, each of unit length."""
        return unit_vectors(self.image(image.pooled), self.text(text.pooled))


def unit_vectors(*embeddings: Tensor) -> Tensor:
    """Embeddings (B, P) each -> (B, 2 P) for two, each scaled to unit length, in float32 at least."""
    return torch.cat([_unit(at_least_float32(x)) for x in embeddings], dim=-1)


def _unit(x: Tensor) -> Tensor:
    """(B, P) at unit length. Zeros, of a stand-in that has not been trained, stay zeros, with a gradient of 1.

    `normalize` would pass on 10^12 times the gradient, and clipping would take it from all other parameters.
    """
    return torch.where((x == 0).all(dim=-1, keepdim=True), x, functional.normalize(x, dim=-1))


def _projection(given: int, width: int, hidden: int | None, dropout: float, norm: bool, bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.LayerNorm(given)] if norm else []
    if hidden is not None:
        layers += [nn.Linear(given, hidden, bias=bias), nn.GELU()]
    last = nn.Linear(given if hidden is None else hidden, width, bias=bias)
    return nn.Sequential(*layers, nn.Dropout(dropout), last)
