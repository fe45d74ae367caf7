"""Image encoder and language model of a vision-language model.

Legend: B batch, S side of an image, N image tokens, D width, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmft.batch import Encoded
from mmft.models.image_encoder import ImageEncoder
from mmft.models.language_model import LanguageModel
from mmft.models.text_encoder import KEY, embeddings
from mmft.models.tokenizer import load_tokenizer
from mmft.models.whole.parts import Whole


class WholeImageEncoder(ImageEncoder):
    """The image encoder: its tokens are what the rest of the model reads of its output.

    Args:
        whole: the model that it is a part of.
    """

    def __init__(self, whole: Whole) -> None:
        super().__init__(whole.image, whole.source, whole.features.width, "mean", whole.pixels.side)
        self.features = whole.features
        tokens = self(torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8)).tokens
        train_what_is_used(self, tokens)

    def forward(self, pixel_values: Tensor) -> Encoded:
        """(B, 3, S, S) uint8 -> tokens (B, N, D), mask (B, N) all True, pooled (B, D), their mean."""
        tokens = self.features.encode(self.backbone, self.normalise(pixel_values))
        return Encoded(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool), tokens.mean(1))


class WholeLanguageModel(LanguageModel):
    """A vision-language model without its image encoder: it reads ids, and image features in the place of some."""

    @staticmethod
    def reader(backbone: Any) -> Any:
        """The language model without its head."""
        return backbone.get_decoder()

    def hidden(self, inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
        """As of any language model; the inputs are `input_ids` and what else the whole model reads."""
        backbone: Any = self.backbone
        out = backbone.base_model(**inputs, attention_mask=mask.long(), use_cache=False)
        found: Tensor = out.last_hidden_state
        return found


def language_model_of(whole: Whole, max_length: int | None) -> LanguageModel:
    """The language model of a vision-language model, with its tokenizer.

    Args:
        whole: the model.
        max_length: number of tokens to which prompts are truncated; None for the model's own maximum, at most 512.

    Raises:
        UserError: its tokenizer does not fit, or its logits cannot be computed.
    """
    load_tokenizer(whole.source, embeddings(whole.text), KEY)  # checks its files
    kind = WholeLanguageModel if whole.reads_ids else LanguageModel
    return kind(whole.text, whole.source, whole.tokenizer, max_length)


def train_what_is_used(part: nn.Module, output: Tensor) -> None:
    """Excludes parameters that do not influence the output from training; they stay in the model for an export."""
    parameters = list(part.parameters())
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
