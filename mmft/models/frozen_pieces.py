"""The frozen part of an image encoder that reads images in pieces, of which each has a number of its own.

Legend: R images, L tokens of an image, D width, K numbers that are known of an image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Features
from mmft.batch.images import Pieces, padded
from mmft.models.encoder import Encoder
from mmft.models.frozen_layers import computing_dtype
from mmft.models.frozen_part import FrozenPart, Inputs, passed_over
from mmft.models.fusion.base import Reads
from mmft.models.image_encoder import ImageEncoder
from mmft.models.stored_form import FORMS, packed, unpacked


def frozen_part_of(
    encoder: Encoder, layer: int | None, reads: Reads, exact: bool = False, form: str = "computed"
) -> FrozenPart:
    """The lower part of an encoder; see `FrozenPart`."""
    kind = FrozenPieces if isinstance(encoder, ImageEncoder) and encoder.reads_pieces else FrozenPart
    return kind(encoder, layer, reads, exact, form)


class FrozenPieces(FrozenPart):
    """As `FrozenPart`; what is known of an image, `Pieces.about`, is kept behind the rest.

    To be the same whatever images are beside it, each image is computed alone.
    """

    _reads_inputs = True

    def __init__(
        self, encoder: Encoder, layer: int | None, reads: Reads, exact: bool = False, form: str = "computed"
    ) -> None:
        super().__init__(encoder, layer, reads, exact, form)
        self._ragged = tuple(name != "pooled" for name in self.names)
        self.ragged = (*(one for one in self._ragged for _ in range(FORMS[form])), False)
        self._of_piece: tuple[int, ...] = ()  # the shape of what a frozen block gives of a tile, or a patch

    def encoded(self, inputs: Inputs | None, kept: Features | None) -> Encoded:
        """The encoder's output for R images in pieces."""
        *values, about = self.complete(inputs, kept).values
        return self._continued((*unpacked(tuple(values), self.form, computing_dtype(self.encoder)), about), inputs)

    def lengths(self, inputs: Inputs) -> list[int]:
        """Tokens of each image in what is kept of it."""
        found: list[int] = self._lengths(inputs[0].about).tolist()
        return found

    @torch.no_grad()
    def compute(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """What is kept of R images, each (R, ...), zeros behind an image's own tokens."""
        images: Pieces = inputs[0]
        if not self.exact:
            *found, about = self._lower(inputs)
            return (*packed(tuple(found), self.form), about)
        alone = [self._lower((images[at : at + 1],)) for at in range(len(images))]
        longest = max((values[0].shape[1] for values in alone), default=0)
        together = []
        for values, ragged in zip(zip(*alone, strict=True), (*self._ragged, False), strict=True):
            same = [nn.functional.pad(one, (0, 0, 0, longest - one.shape[1])) if ragged else one for one in values]
            together.append(torch.cat(same))
        return (*packed(tuple(together[:-1]), self.form), together[-1])

    def _lengths(self, about: Tensor) -> Tensor:
        """(R,) tokens of images (R, K)."""
        encoder: Any = self.encoder
        if self.is_whole:
            found: Tensor = encoder.lengths(about)
            return found
        return about[:, 0] * (self._of_piece[0] if len(self._of_piece) > 1 else 1)

    def _lower(self, inputs: Inputs) -> tuple[Tensor, ...]:
        values, about = super()._lower(inputs), inputs[0].about
        if self.is_whole:
            return (*values, about)
        self._of_piece = values[0].shape[1:]
        return padded(values[0].flatten(0, -2), self._lengths(about))[0], about

    def _continued(self, values: tuple[Tensor, ...], inputs: Inputs | None) -> Encoded:  # noqa: ARG002
        encoder: Any = self.encoder
        about = values[-1]
        mask = torch.arange(values[0].shape[1], device=about.device) < self._lengths(about)[:, None]
        if self.is_whole:
            return Encoded(values[0], mask, values[1])
        hidden = values[0][mask].view(-1, *self._of_piece)
        with passed_over(self._blocks, self._outputs, hidden):
            encoded: Encoded = encoder(encoder.tiles.zeros(about))
            return encoded

    def _two_rows(self) -> Inputs:
        tiles: Any = self.encoder.tiles
        return (Pieces.together([tiles.tried, tiles.of_square]).to(next(self.encoder.parameters()).device),)
