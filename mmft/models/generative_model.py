"""The model of `task=generation`: image encoder -> projector -> one sequence with prompt and answer -> language model.

The head is applied only where an answer token is predicted.

Legend: B batch, L prompt tokens, M image tokens, A answer tokens, S tokens of a sequence, T answer tokens of all rows,
D width of the language model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmft.batch import Batch, Encoded, Fused, Outputs, Widths
from mmft.models.fusion.projector import Projector
from mmft.models.generating import generate
from mmft.models.image_encoder import ImageEncoder
from mmft.models.language_model import LanguageModel
from mmft.models.layers import evaluated
from mmft.models.prompt_tokenizer import IMAGE_MARK, learned
from mmft.models.sequences import lay_out, learned_tokens
from mmft.models.vision_language_model import StandIn, VisionLanguageModel, present_rows


class Sequences(NamedTuple):
    """Rows as the language model reads them, padded on the right."""

    inputs: dict[str, Any]  # of the language model: `inputs_embeds` (B, S, D), or `input_ids` (B, S) and others
    mask: Tensor  # (B, S) bool, True = real token
    prompt_length: Tensor  # (B,) int64, tokens of prompt and image, at least one
    order: Tensor  # (B, S) int64, see `Layout`


class GenerativeModel(VisionLanguageModel):
    """Writes texts about images.

    A row without an image has a learned token in its place; a row without a text has the prompt of an empty one.

    Args:
        image_encoder: uint8 images (B, 3, H, W) -> Encoded.
        text_encoder: the language model.
        fusion: image tokens -> embeddings of the language model.

    Attributes:
        max_new_tokens: longest generated text.
        image_tokens: M.
    """

    text_encoder: LanguageModel
    fusion: Projector

    def __init__(self, image_encoder: ImageEncoder, text_encoder: LanguageModel, fusion: Projector) -> None:
        super().__init__(image_encoder, text_encoder, fusion, nn.Identity())
        self.missing_image = StandIn(Widths(fusion.width, image_encoder.widths.pooled), "tokens")
        del self.missing_text
        self.max_new_tokens = 1
        side = image_encoder.image_size
        with evaluated(image_encoder, fusion), torch.no_grad():
            blank = image_encoder(torch.zeros(1, 3, side, side, dtype=torch.uint8))
            self.image_tokens = int(fusion(blank).shape[1])

    def forward(self, batch: Batch) -> Outputs:
        """Log-probabilities of the answer tokens (B, A), 0 for padding; in eval mode generates texts, too.

        Behind them are those of the prompt's tokens (B, L), 0 for what is not learned, if any row learns some.
        """
        image = self.project_image(batch)
        outputs = Outputs(self._answer_log_probs(batch, image), image.pooled, image.pooled.new_zeros(len(batch), 0))
        if self.training:
            return outputs
        prompts = self._joined(batch, image, None)
        found = generate(self.text_encoder, prompts.inputs, prompts.mask, self.max_new_tokens)
        return outputs._replace(generated=found.tokens, generated_log_probs=found.log_probs)

    def fuse(self, batch: Batch) -> Fused:
        """The hidden state (B, D) at the end of prompt and image."""
        image = self.project_image(batch)
        prompts = self._joined(batch, image, None)
        hidden = self.text_encoder.hidden(prompts.inputs, prompts.mask)  # (B, S, D)
        rows = torch.arange(len(hidden), device=hidden.device)
        last = hidden[rows, prompts.prompt_length - 1]
        return Fused(last, image.pooled, image.pooled.new_zeros(len(batch), 0))

    def project_image(self, batch: Batch) -> Encoded:
        """Tokens (B, M, D) for the language model, a stand-in for a missing image."""
        rows = present_rows(batch.image_present)
        encoded = self._encoded("image_encoder", batch, rows)
        if encoded is not None:
            tokens = self.fusion(encoded)
            encoded = Encoded(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool), encoded.pooled)
        filled: Encoded = self.missing_image(encoded, batch.image_present, rows)
        return filled

    def _answer_log_probs(self, batch: Batch, image: Encoded) -> Tensor:
        """(B, A) or (B, A + L), see `forward`; (B, 0) without targets."""
        if batch.target is None:
            return image.tokens.new_zeros(len(batch), 0)
        whole = self._joined(batch, image, batch.target)
        hidden = self.text_encoder.hidden(whole.inputs, whole.mask)  # (B, S, D)
        place = whole.order.argsort(1)  # (B, S) in the sequence, of each of prompt, image and answer side by side
        places, tokens = place[:, place.shape[1] - batch.target.shape[1] :], batch.target
        if (of_prompt := learned_tokens(batch)) is not None:
            places, tokens = torch.cat([places, place[:, : of_prompt.shape[1]]], 1), torch.cat([tokens, of_prompt], 1)
        known = tokens >= 0
        row, at = known.nonzero(as_tuple=True)  # (T,) each
        predicting = hidden[row, places[row, at] - 1]  # (T, D)
        found = self.text_encoder.log_probs(predicting, tokens[known])
        return found.new_zeros(known.shape).masked_scatter(known, found)

    def _joined(self, batch: Batch, image: Encoded, answer: Tensor | None) -> Sequences:
        """Prompts, images and answers (B, A), -1 for padding, as sequences."""
        ids, mask = self._prompts(batch)
        answer = ids.new_empty(len(ids), 0) if answer is None else answer
        laid = lay_out(ids, mask, image.mask, answer >= 0)
        embed = self.text_encoder.embed
        prompt = embed(ids.clamp_min(0))
        tokens = torch.cat([prompt, image.tokens.to(prompt.dtype), embed(answer.clamp_min(0))], dim=1)
        embedded = tokens.gather(1, laid.order[..., None].expand_as(tokens))
        return Sequences({"inputs_embeds": embedded}, laid.mask, laid.prompt_length, laid.order)

    def _prompts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Ids (B, L) and mask (B, L) of the prompts."""
        device = batch.row.device
        empty = torch.tensor(self.text_encoder.tokenizer.empty, dtype=torch.int64, device=device)  # (E,)
        if batch.input_ids is None or batch.attention_mask is None:
            ids = empty.expand(len(batch), -1)
            return ids, torch.ones_like(ids, dtype=torch.bool)
        missing = max(0, len(empty) - batch.input_ids.shape[1])
        ids = batch.input_ids.where(batch.input_ids >= IMAGE_MARK, learned(batch.input_ids))
        ids = nn.functional.pad(ids, (0, missing))
        mask = nn.functional.pad(batch.attention_mask, (0, missing))
        empty_ids = nn.functional.pad(empty, (0, ids.shape[1] - len(empty)))
        empty_mask = torch.arange(ids.shape[1], device=device) < len(empty)
        there = batch.text_present[:, None]
        return torch.where(there, ids, empty_ids), torch.where(there, mask, empty_mask)
