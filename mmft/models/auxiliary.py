"""What training adds beside the head, and the finished model does without: a head on each modality alone, and
projections of both into a shared space where they are aligned.

Legend: B batch, C outputs, P width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmft.batch import Auxiliaries, Widths
from mmft.models.similarity import SimilarityHead

_TEMPERATURE = 0.07  # CLIP's, to begin with


class Auxiliary(nn.Module):
    """Heads on both encoders' pooled features, and their projections.

    Args:
        image: of the image encoder.
        text: of the text encoder.
        make_head: width -> a task's head, for each modality; None: there are none.
        shared: P; None: nothing is projected.
        has_temperature: whether projections are scaled for a contrastive loss, with a learned temperature.
    """

    def __init__(
        self,
        image: Widths,
        text: Widths,
        make_head: Callable[[int], nn.Module] | None,
        shared: int | None,
        has_temperature: bool,
    ) -> None:
        super().__init__()
        self.image_head = None if make_head is None else make_head(image.pooled)
        self.text_head = None if make_head is None else make_head(text.pooled)
        self.image_projection = None if shared is None else nn.Linear(image.pooled, shared)
        self.text_projection = None if shared is None else nn.Linear(text.pooled, shared)
        self.similarity = SimilarityHead(_TEMPERATURE, bias=None) if has_temperature else None

    def forward(self, image: Tensor, text: Tensor) -> Auxiliaries:
        """Pooled features (B, D_image) and (B, D_text) -> outputs (B, C) of each, and both projections (B, 2 P)."""
        of_image = None if self.image_head is None else self.image_head(image)
        of_text = None if self.text_head is None else self.text_head(text)
        return Auxiliaries(of_image, of_text, self._shared(image, text))

    def _shared(self, image: Tensor, text: Tensor) -> Tensor | None:
        if self.image_projection is None or self.text_projection is None:
            return None
        projected = [self.image_projection(image), self.text_projection(text)]
        if self.similarity is None:
            return torch.cat(projected, dim=-1)
        vectors: Tensor = self.similarity(torch.cat([nn.functional.normalize(x, dim=-1) for x in projected], dim=-1))
        return vectors
