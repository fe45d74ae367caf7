"""What a whole vision-language model has between its image encoder and its language model.

Legend: B batch, N image tokens, M tokens that the language model reads, D_i width of the image encoder's output,
W width of image features, I images, U tokens that it reads of all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import WholeConfig
from mmft.models.fusion.base import TokenProjection
from mmft.models.whole.parts import Whole


class WholeFusion(TokenProjection):
    """Image tokens (B, N, D_i) -> image features (B, M, W), by the model's own projector.

    Args:
        image: widths of the image encoder.
        text: widths of the language model.
        whole: the model.

    Attributes:
        image_tokens: M of an image of zeros.
        features_width: W; more than the language model's width if several of its layers read features (Qwen3-VL).
    """

    facts = WholeConfig

    def __init__(self, image: Widths, text: Widths, whole: Whole) -> None:  # noqa: ARG002 - known to the whole
        super().__init__()
        self.width, self.features_width = text.tokens, whole.features.depth * text.tokens
        self.rest = whole.rest
        self._features, self.image_tokens = whole.features, whole.features.image_tokens

    def project(self, image: Encoded) -> Tensor:
        """Tokens (B, N, D_i) -> (B, M, W)."""
        size = len(image.tokens)
        about = image.mask.new_zeros(size, 0, dtype=torch.int64)
        return self._features.project(self.rest, image.tokens.flatten(0, 1), about).view(size, -1, self.features_width)

    def project_pieces(self, image: Encoded, about: Tensor) -> Tensor:
        """Tokens (I, N, D_i) of images of which (I, K) is known -> (U, W), those of all images one after another."""
        return self._features.project(self.rest, image.tokens[image.mask], about)
