"""Image encoder and language model of a vision-language model.

Legend: B batch, S side of an image, N image tokens, D width, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmft.batch import Encoded
from mmft.batch.images import Pieces, members, padded
from mmft.models.image_encoder import ImageEncoder
from mmft.models.language.language_model import LanguageModel
from mmft.models.language.packing import Packing, counted
from mmft.models.text_encoder import KEY, embeddings
from mmft.models.tokenizer import load_tokenizer
from mmft.models.whole.features import EncodedImages, ReachedError, bare
from mmft.models.whole.loading import KEY as WHOLE_KEY
from mmft.models.whole.parts import Whole


class WholeImageEncoder(ImageEncoder):
    """The image encoder: its tokens are what the rest of the model reads of its output.

    Args:
        whole: the model that it is a part of.
    """

    def __init__(self, whole: Whole) -> None:
        super().__init__(whole.image, whole.source, whole.features.width, "mean", whole.pixels.side)
        self.features, self.tiles = whole.features, whole.tiles
        self.reads_pieces = whole.tiles is not None
        train_what_is_used(self, self(self.blank(1)).tokens)

    def blank(self, images: int) -> Tensor | Pieces:
        """So many images whose pixels are zeros."""
        if self.tiles is None:
            squares: Tensor = super().blank(images)
            return squares
        about = self.tiles.missing.about.to(self.get_buffer("mean").device).expand(images, -1)
        return self.tiles.zeros(about)

    def forward(self, images: Tensor | Pieces) -> Encoded:
        """(B, 3, S, S) uint8, or pieces of B images -> tokens (B, N, D), mask (B, N), pooled (B, D), their mean."""
        if isinstance(images, Tensor):
            about = images.new_zeros(len(images), 0, dtype=torch.int64)
            tokens = self.features.encode(self.backbone, self.normalise(images), about)  # (B N, D)
            tokens = tokens.view(len(images), -1, tokens.shape[-1])
            return Encoded(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool), tokens.mean(1))
        assert self.tiles is not None
        normalised = self.tiles.normalised(images.values, self.get_buffer("mean"), self.get_buffer("std"))
        lengths = self.features.lengths(images.about)
        tokens, mask = padded(self.features.encode(self.backbone, normalised, images.about), lengths)
        return Encoded(tokens, mask, tokens.sum(1) / lengths[:, None])

    @property
    def reads(self) -> dict[str, Any]:
        """Which of its backbone's outputs the model takes, and what its processor does."""
        return {"outputs": self.features.paths, "processor": self.features.pixels.settings}

    def lengths(self, about: Tensor) -> Tensor:
        """(I, K) of images in pieces -> (I,) int64 tokens of each."""
        return self.features.lengths(about)


class WholeLanguageModel(LanguageModel):
    """A vision-language model without its image encoder: it reads ids, and image features in the place of some.

    Inputs are `input_ids` (B, S) and what else the whole model reads; with `inputs_embeds` (B, S, D), too, tokens of
    text are read as these, and the ids say what kind of tokens they are.
    """

    @staticmethod
    def reader(backbone: Any) -> Any:
        """The language model without its head."""
        return backbone.get_decoder()

    @torch.no_grad()
    def own_positions(self, inputs: Mapping[str, Any], mask: Tensor, behind: int = 0) -> Tensor:
        """What the model gives its decoder for such ids, which is asked for that in place of reading them."""
        backbone: Any = self.backbone
        core, decoder = backbone.base_model, self.reader(backbone)
        given = {name: _longer(value, behind) for name, value in inputs.items() if of_tokens(value, mask)}
        given |= {name: value for name, value in inputs.items() if isinstance(value, Tensor) and name not in given}
        given.pop("inputs_embeds", None)

        def reached(*_: Any, position_ids: Tensor | None = None, **__: Any) -> None:
            raise ReachedError(position_ids)

        asked = bare(decoder, decoder._modules, decoder._parameters)
        asked.forward = reached
        names = {name: asked if module is decoder else module for name, module in core.named_children()}
        try:
            bare(core, names, core._parameters)(
                **given, attention_mask=nn.functional.pad(mask, (0, behind), value=True).long()
            )
        except ReachedError as found:
            own: Tensor | None = found.output
            return counted(mask, behind) if own is None else own.expand(*own.shape[:-2], len(mask), -1)
        raise AssertionError(f"{type(core).__name__} does not call its decoder")

    def _read(self, given: Mapping[str, Any]) -> Tensor:
        """As of any language model."""
        if "input_ids" not in given or "inputs_embeds" not in given:
            return super()._read(given)
        backbone: Any = self.backbone
        handle = backbone.get_input_embeddings().register_forward_hook(lambda *_: given["inputs_embeds"])
        try:
            return super()._read({name: value for name, value in given.items() if name != "inputs_embeds"})
        finally:
            handle.remove()

    def _packed(self, inputs: Mapping[str, Any], mask: Tensor, packing: Packing) -> dict[str, Any]:
        """As of any language model, with positions as in rows alone, and images in the order of packed rows."""
        rows, real = packing.rows(mask.shape[1]), packing.source >= 0
        images = members(inputs["mm_encoder_outputs"].count, rows)

        def packed(value: Any) -> Any:
            if not of_tokens(value, mask):
                return value.take(rows) if isinstance(value, EncodedImages) else value[images]
            found = packing.pack(value)
            return found if found.is_floating_point() else found.masked_fill(~real, 0)

        given = {name: packed(value) for name, value in inputs.items()}
        own = self.own_positions(inputs, mask)
        if own.ndim == 2:
            return {**given, "position_ids": packed(own)}
        # transformers keeps rows apart by their places, which it then takes in front of the axes of an image
        return {**given, "position_ids": torch.stack([packing.positions, *map(packed, own)])}


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
    return kind(whole.text, whole.source, whole.tokenizer, max_length, WHOLE_KEY)


def of_tokens(value: Any, mask: Tensor) -> bool:
    """Whether an input has a number or a vector for each of the tokens (B, S)."""
    return isinstance(value, Tensor) and value.shape[:2] == mask.shape


def _longer(value: Tensor, behind: int) -> Tensor:
    """(B, S) -> (B, S + behind), with zeros: of tokens of text."""
    return nn.functional.pad(value, (0, behind)) if value.ndim == 2 else value


def train_what_is_used(part: nn.Module, output: Tensor) -> None:
    """Excludes parameters that do not influence the output from training; they stay in the model for an export."""
    parameters = list(part.parameters())
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
