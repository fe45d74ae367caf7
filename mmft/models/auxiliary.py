"""Training-only modules, absent from the finished model: a head per modality, and projections for alignment.

Legend: B batch, C outputs, D an encoder's pooled width, P width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmft.batch import Auxiliaries, Widths
from mmft.models.similarity import SimilarityHead

_TEMPERATURE = 0.07  # CLIP's initial value


class Auxiliary(nn.Module):
    """Heads on each encoder's pooled features, and projections of these into a shared space.

    Args:
        image: widths of the image encoder.
        text: widths of the text encoder.
        make_head: width -> a task's head, called once per modality; None for no heads.
        shared: P; None for no projections.
        has_temperature: whether to scale projections by a learned temperature, for a contrastive loss.
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
        projected = [self.image_projection(image), self.text_projection(text)]  # (B, P) each
        if self.similarity is None:
            return torch.cat(projected, dim=-1)  # (B, 2 P)
        vectors: Tensor = self.similarity(torch.cat([nn.functional.normalize(x, dim=-1) for x in projected], dim=-1))
        return vectors
