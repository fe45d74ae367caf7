"""What a whole vision-language model has between its image encoder and its language model.

Legend: B batch, N image tokens, M tokens that the language model reads, D_i width of the image encoder's output,
W width of image features.
"""

from __future__ import annotations

from torch import Tensor

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import WholeConfig
from mmft.models.fusion.base import Projection
from mmft.models.whole.parts import Whole


class WholeFusion(Projection):
    """Image tokens (B, N, D_i) -> image features (B, M, W), by the model's own projector.

    Args:
        image: widths of the image encoder.
        text: widths of the language model.
        whole: the model.

    Attributes:
        features_width: W; more than the language model's width if several of its layers read features (Qwen3-VL).
    """

    facts = WholeConfig

    def __init__(self, image: Widths, text: Widths, whole: Whole) -> None:  # noqa: ARG002 - known to the whole
        super().__init__()
        self.width, self.features_width = text.tokens, whole.features.depth * text.tokens
        self.rest = whole.rest
        self._features = whole.features

    def project(self, image: Encoded) -> Tensor:
        """Tokens (B, N, D_i) -> (B, M, W)."""
        return self._features.project(self.rest, image.tokens)
