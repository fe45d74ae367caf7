"""The model of `task=generation` with `model.whole`: a vision-language model of transformers, put to work by its parts.

Image encoder and projector run first, with what they share with no text. The language model then reads ids, with the
image's features in the place of some of them, by the model's own `forward`: so positions, attention masks and deep
features are those of transformers.

Legend: B batch, L prompt tokens, M image tokens, A answer tokens, S tokens of a sequence, W width of image features.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mmft.batch import Batch, Encoded, Widths, padded_length
from mmft.models.fusion.whole import WholeFusion
from mmft.models.image_encoder import ImageEncoder
from mmft.models.language.generative_model import GenerativeModel, Sequences
from mmft.models.language.images_in_prompt import SquareImages
from mmft.models.language.language_model import LanguageModel
from mmft.models.sequences import lay_out, learned_tokens
from mmft.models.vision_language_model import StandIn, present_rows
from mmft.models.whole.features import EncodedImages
from mmft.models.whole.parts import Whole


class WholeModel(GenerativeModel):
    """A vision-language model that writes texts about images.

    A row without an image has as many tokens as others in its place, each the same learned vector.

    Args:
        image_encoder: uint8 images (B, 3, H, W) -> Encoded.
        text_encoder: the language model.
        fusion: the parts between.
        whole: the model that they are parts of; its own modules are those of the parts.
    """

    fusion: WholeFusion

    def __init__(
        self, image_encoder: ImageEncoder, text_encoder: LanguageModel, fusion: WholeFusion, whole: Whole
    ) -> None:
        super().__init__(image_encoder, text_encoder, fusion)
        start = text_encoder.end_embedding()
        start = nn.functional.pad(start, (0, fusion.features_width - len(start)))  # deep features are added: zeros
        self.missing_image = StandIn(Widths(fusion.features_width, image_encoder.widths.pooled), "tokens", start)
        self.whole, self.stand_in_tokens = whole, self.image_tokens
        self.images = whole.tiles or SquareImages(self.image_tokens, self.stand_in_tokens)
        self._accepts = inspect.signature(whole.text.forward).parameters.keys()

    def parts(self) -> dict[str, Any]:
        """The modules of transformers, by their names in `Whole.prefixes`."""
        return {
            "image": self.image_encoder.backbone,
            "rest": self.fusion.rest,
            "text": self.text_encoder.backbone,
        }

    def blank_tokens(self) -> int:
        """Tokens of an image of zeros; of the smallest number, if images are cut."""
        return self.fusion.image_tokens

    def project_pieces(self, encoded: Encoded, about: Tensor) -> Tensor:
        """Images of which (I, K) is known -> features (U, W) of all of them."""
        return (
            self.fusion.project_pieces(encoded, about) if self.images.cuts else super().project_pieces(encoded, about)
        )

    def project_image(self, batch: Batch) -> Encoded:
        """Features (B, M, W) for the language model; mask all True, but for images in pieces."""
        if batch.images is not None:
            return self._project_images(batch.images, batch.image_present)
        rows = present_rows(batch.image_present)
        encoded = self._encoded("image_encoder", batch, rows)  # (R, N, D)
        vector = self.missing_image.vector
        stand_in = vector.expand(len(batch), self.image_tokens, -1)  # (B, M, W)
        mask = torch.ones(stand_in.shape[:2], dtype=torch.bool, device=vector.device)
        if encoded is None:
            return Encoded(stand_in, mask, vector.new_zeros(len(batch), self.image_encoder.pooled_width))
        found, pooled = self.fusion(encoded), encoded.pooled
        if rows is not None:
            found, pooled = (
                part.new_zeros(len(batch), *part.shape[1:]).index_copy(0, rows, part) for part in (found, pooled)
            )
        return Encoded(torch.where(batch.image_present[:, None, None], found, stand_in.to(found.dtype)), mask, pooled)

    def _joined(self, batch: Batch, image: Encoded, answer: Tensor | None) -> Sequences:
        """Prompts, images and answers (B, A), -1 for padding, as sequences."""
        if not self.whole.reads_ids:
            return super()._joined(batch, image, answer)
        ids, mask = self._prompts(batch)
        answer = ids.new_empty(len(ids), 0) if answer is None else answer
        laid = lay_out(ids, mask, image.mask, answer >= 0)
        size = padded_length(int(laid.mask.sum(1).max()), laid.mask.shape[1])  # of the longest row
        order, real = laid.order[:, :size], laid.mask[:, :size]
        images = torch.full_like(image.mask, self.whole.image_token, dtype=ids.dtype)  # (B, M)
        every = torch.cat([ids.clamp_min(0), images, answer.clamp_min(0)], dim=1)
        tokens = every.gather(1, order).masked_fill(~real, 0)  # (B, S)
        features = [own[there] for own, there in zip(image.tokens, image.mask, strict=True)]
        count = torch.ones_like(batch.row) if batch.images is None else batch.images.count
        inputs = {"input_ids": tokens, "mm_encoder_outputs": EncodedImages(self.whole.features, features, count)}
        if self._given_prompts is not None:
            nothing = self._given_prompts.new_zeros(*images.shape, self._given_prompts.shape[2])
            embedded = torch.cat([self._given_prompts, nothing, self.text_encoder.embed(answer.clamp_min(0))], dim=1)
            inputs["inputs_embeds"] = embedded.gather(1, order[..., None].expand(-1, -1, embedded.shape[2]))
        earlier = learned_tokens(batch)
        of_prompt = torch.zeros_like(ids)
        if earlier is not None:
            of_prompt[:, : earlier.shape[1]] = (earlier >= 0).long()
        written = torch.cat([of_prompt, torch.zeros_like(images), torch.ones_like(answer)], dim=1)  # answers
        inputs |= self._types_of(real & (tokens == self.whole.image_token), real & (written.gather(1, order) > 0))
        inputs |= {
            name: value
            for name, value in self.whole.pixels.said(self._about(batch)).items()
            if name in self._accepts and not name.startswith("pixel")
        }
        return Sequences(inputs, real, laid.prompt_length, laid.order)

    def _about(self, batch: Batch) -> Tensor:
        """(I, K) of the rows' images, or of B alike."""
        if batch.images is not None:
            return batch.images.pieces.about
        return self.images.missing.about.to(batch.row.device).expand(len(batch), -1)

    def _types_of(self, of_image: Tensor, of_answer: Tensor) -> dict[str, Any]:
        """What the model is told about each of the tokens, (B, S) each."""
        found = {"mm_token_type_ids": of_image.long()} if "mm_token_type_ids" in self._accepts else {}
        if self.whole.of_type_one is not None:
            behind = of_answer.cumsum(1) > 0  # no token of an answer is seen by one in front of it
            found["token_type_ids"] = (of_image if self.whole.of_type_one == "image" else behind).long()
        return found
