"""The model: image encoder + text encoder -> fusion -> head.

Legend: B batch, H W picture height and width, L text tokens, N tokens, D width, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Batch, Encoded, Outputs
from mmft.models.image_encoder import ImageEncoder
from mmft.models.text_encoder import TextEncoder

PARTS = ("image_encoder", "text_encoder", "fusion", "head")


class StandIn(nn.Module):
    """The learned vector that takes a missing picture's or text's place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width))

    def forward(self, encoded: Encoded | None, present: Tensor) -> Encoded:
        """Puts the stand-in where `present` (B,) is False; `encoded` is None where it is False everywhere.

        A row that has the modality gets its own features unchanged; one that lacks it gets the vector,
        an empty mask, and gives the encoder no gradient.
        """
        if encoded is None:
            pooled = self.vector.expand(len(present), -1)
            return Encoded(pooled.unsqueeze(1), present.unsqueeze(1), pooled)
        here = present.unsqueeze(-1)  # (B, 1)
        pooled = torch.where(here, encoded.pooled, self.vector.to(encoded.pooled.dtype))
        return Encoded(encoded.tokens, encoded.mask & here, pooled)


class VisionLanguageModel(nn.Module):
    """Couples two encoders through a fusion and a head.

    Args:
        image_encoder: uint8 pictures (B, 3, H, W) -> Encoded.
        text_encoder: ids and mask (B, L) -> Encoded.
        fusion: Encoded image and text -> (B, F).
        head: (B, F) -> (B, C).
    """

    def __init__(
        self, image_encoder: ImageEncoder, text_encoder: TextEncoder, fusion: nn.Module, head: nn.Module
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.fusion = fusion
        self.head = head
        self.missing_image = StandIn(image_encoder.pooled_width)
        self.missing_text = StandIn(text_encoder.pooled_width)

    def forward(self, batch: Batch) -> Outputs:
        """Pictures (B, 3, H, W) uint8 and texts (B, L) -> logits (B, C) and both pooled features."""
        image = self.encode_image(batch)
        text = self.encode_text(batch)
        fused = self.fusion(image, text)  # (B, F)
        return Outputs(self.head(fused), image.pooled, text.pooled)

    def encode_image(self, batch: Batch) -> Encoded:
        """Tokens (B, N, D) of the pictures; the stand-in where a row has none."""
        encoded = None if batch.pixel_values is None else self.image_encoder(batch.pixel_values)
        filled: Encoded = self.missing_image(encoded, batch.image_present)
        return filled

    def encode_text(self, batch: Batch) -> Encoded:
        """Tokens (B, L, D) of the texts; the stand-in where a row has none."""
        there = batch.input_ids is not None
        encoded = self.text_encoder(batch.input_ids, batch.attention_mask) if there else None
        filled: Encoded = self.missing_text(encoded, batch.text_present)
        return filled


def part_of(name: str) -> str:
    """Which of `PARTS` a parameter of the model belongs to; stand-ins belong to the fusion."""
    first = name.partition(".")[0]
    return first if first in PARTS else "fusion"


def set_dropout(model: nn.Module, probability: float) -> None:
    """Sets every dropout of `model`, attention's included; stochastic depth is left alone."""
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d)):
            module.p = probability
        for name, value in vars(module).items():  # transformers passes some rates to functions
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, probability)
