"""The projections of a pretrained pair as a fusion (CLIP, arXiv 2103.00020).

Legend: B batch, D_i D_t pooled widths of image and text, P width of the shared space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Widths
from mmft.config.schema.fusion import PretrainedConfig
from mmft.models.fusion.base import Fusion
from mmft.models.fusion.dual import unit_vectors


class PretrainedFusion(Fusion):
    """Projects each pooled feature as in the pair's pretraining, and scales it to unit length.

    Args:
        image: widths of the image encoder.
        text: widths of the text encoder.
        projections: the pair's, of images and of texts: linear layers, some of open_clip's with one
            between, or (SigLIP) identities.
        scale: factor of similarities in the pair's pretraining, 1 / temperature.
    """

    facts = PretrainedConfig

    def __init__(self, image: Widths, text: Widths, projections: tuple[nn.Module, nn.Module], scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.image, self.text = projections
        with torch.no_grad():
            ends = [self.image.eval()(torch.zeros(1, image.pooled)), self.text.eval()(torch.zeros(1, text.pooled))]
        self.width = sum(end.shape[-1] for end in ends)

    def forward(self, image: Encoded, text: Encoded) -> Tensor:
        """Pooled (B, D_i) and (B, D_t) -> (B, 2 P): the image's embedding, then the text's, each of unit length."""
        return unit_vectors(self.image(image.pooled), self.text(text.pooled))
