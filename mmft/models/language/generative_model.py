"""The model of `task=generation`: image encoder -> projector -> one sequence with prompt and answer -> language model.

The head is applied only where an answer token is predicted.

Legend: B batch, L prompt tokens, M image tokens, A answer tokens, S tokens of a sequence, T answer tokens of all rows,
D width of the language model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmft.batch import Batch, Encoded, Fused, Outputs, Widths, padded_length
from mmft.batch.images import Images, ImagesInPrompt, padded
from mmft.config.schema.decoding import DecodingConfig
from mmft.models.fusion.base import TokenProjection
from mmft.models.image_encoder import ImageEncoder
from mmft.models.language.answer_scores import answer_scores
from mmft.models.language.answer_scores import padded as padded_answers
from mmft.models.language.decoding import Decoding
from mmft.models.language.generating import generate, padded_on_the_left, stream
from mmft.models.language.images_in_prompt import SquareImages, prompts_in_pieces
from mmft.models.language.language_model import LanguageModel
from mmft.models.language.prompt_tokenizer import IMAGE_MARK, learned
from mmft.models.layers import evaluated
from mmft.models.sequences import lay_out, learned_tokens
from mmft.models.vision_language_model import StandIn, VisionLanguageModel, present_rows

_CACHED = 16_384  # tokens of prompts in memory at once, when the answers of a list are scored


class Sequences(NamedTuple):
    """Rows as the language model reads them, padded on the right up to the longest of them."""

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
        decoding: how texts are written.
        written_rows: numbers of the rows that texts are written for; None for all.
        label_smoothing: of the answer tokens, in training.
        image_tokens: M.
        images: how images become tokens of a prompt, if they are cut, or if a row has several.
    """

    text_encoder: LanguageModel
    fusion: TokenProjection
    stand_in_tokens = 1  # in place of a missing image

    def __init__(self, image_encoder: ImageEncoder, text_encoder: LanguageModel, fusion: TokenProjection) -> None:
        super().__init__(image_encoder, text_encoder, fusion, nn.Identity())
        start = text_encoder.end_embedding()
        self.missing_image = StandIn(Widths(fusion.width, image_encoder.widths.pooled), "tokens", start)
        del self.missing_text
        self.decoding = Decoding(DecodingConfig(max_new_tokens=1))
        self.written_rows: Tensor | None = None
        self.label_smoothing = 0.0
        self._given_prompts: Tensor | None = None
        self.image_tokens = self.blank_tokens()
        self.images: ImagesInPrompt = SquareImages(self.image_tokens, self.stand_in_tokens)

    def forward(self, batch: Batch) -> Outputs:
        """Log-probabilities of the answer tokens (B, A), 0 for padding; in eval mode generates texts, too.

        Behind them are those of the prompt's tokens (B, L), 0 for what is not learned, if any row learns some. In
        training all are smoothed by `label_smoothing`.
        """
        image = self.project_image(batch)
        outputs = self._scored(batch, image)
        return outputs if self.training else self._with_answers(outputs, batch, image)

    @torch.no_grad()
    def stream(self, batch: Batch) -> Iterator[int]:
        """The tokens of the text of a batch's only row, each as soon as it is written."""
        prompts = self._joined(batch, self.project_image(batch), None)
        return stream(self.text_encoder, prompts.inputs, prompts.mask, self.decoding)

    def score(self, batch: Batch) -> Outputs:
        """`forward` without generating texts."""
        return self._scored(batch, self.project_image(batch))

    @property
    def answer_room(self) -> int:
        """Tokens that an answer may have behind the longest prompt and an image."""
        return self.text_encoder.positions - self.image_tokens - self.text_encoder.max_length

    def embed_text(self, batch: Batch) -> Tensor:
        """(B, L, D) embeddings of the prompts' tokens."""
        return self.text_encoder.embed(self._prompts(batch)[0].clamp_min(0))

    @contextmanager
    def reading(self, embedded: Tensor) -> Iterator[None]:
        """Context in which prompts are read as these embeddings (B, L, D); images and answers as they are."""
        self._given_prompts = embedded
        try:
            yield
        finally:
            self._given_prompts = None

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
        if batch.images is not None:
            return self._project_images(batch.images, batch.image_present)
        encoded = self._encoded("image_encoder", batch, rows)
        if encoded is not None:
            tokens = self.fusion(encoded)
            encoded = Encoded(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool), encoded.pooled)
        return self._filled(self.missing_image, encoded, batch.image_present, rows)

    def blank_tokens(self) -> int:
        """Tokens of an image of zeros."""
        with evaluated(self.image_encoder, self.fusion), torch.no_grad():
            return int(self.fusion(self.image_encoder(self.image_encoder.blank(1))).shape[1])

    def project_pieces(self, encoded: Encoded, about: Tensor) -> Tensor:  # noqa: ARG002 - of squares nothing is known
        """Images of which (I, K) is known -> features (U, W) of all of them."""
        found: Tensor = self.fusion(encoded).flatten(0, 1)
        return found

    def _project_images(self, images: Images, present: Tensor) -> Encoded:
        """Features (B, M, W) of each row's images side by side; the learned vector for those of rows (B,) without."""
        of_row = torch.arange(len(images), device=present.device).repeat_interleave(images.count)  # (I,)
        there = present[of_row]
        lengths = self.images.counts(images.pieces.about)  # (I,)
        vector = self.missing_image.vector
        features = vector.expand(int(lengths.sum()), -1)  # (U, W)
        pooled = vector.new_zeros(len(images), self.image_encoder.pooled_width)
        which = there.nonzero().squeeze(1)
        if len(which):
            pieces = images.pieces[which]
            kept = None if images.kept is None else images.kept.map(lambda t: t[which])
            encoded = self._encoded_pieces(pieces, kept)
            found = self.project_pieces(encoded, pieces.about)
            real = there.repeat_interleave(lengths)
            features = features.to(found.dtype).masked_scatter(real[:, None], found)
            share = encoded.pooled / images.count[of_row[which], None]
            pooled = pooled.to(share.dtype).index_add(0, of_row[which], share)
        tokens, mask = padded(features, torch.zeros_like(images.count).index_add(0, of_row, lengths))
        return Encoded(tokens, mask, pooled)

    def _scored(self, batch: Batch, image: Encoded) -> Outputs:
        """Outputs without texts."""
        return Outputs(self._answer_log_probs(batch, image), image.pooled, image.pooled.new_zeros(len(batch), 0))

    def _with_answers(self, outputs: Outputs, batch: Batch, image: Encoded) -> Outputs:
        """Answers for the `written_rows`; the others have no tokens."""
        size, places = len(batch), torch.arange(len(batch), device=batch.row.device)
        if self.written_rows is not None:
            places = places[torch.isin(batch.row, self.written_rows.to(batch.row.device))]
            batch, image = batch.take(places), Encoded(*(part[places] for part in image))
        tokens, log_probs, scores = self._answers(batch, image)

        def placed(values: Tensor, empty: int) -> Tensor:
            return values.new_full((size, values.shape[1]), empty).index_copy(0, places, values)

        return outputs._replace(
            generated=placed(tokens, -1), generated_log_probs=placed(log_probs, 0), choices=placed(scores, 0)
        )

    def _answers(self, batch: Batch, image: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, T), -1 for padding, their log-probabilities (B, T), and those of the K choices (B, K).

        K is 0 without choices. With choices the tokens are those of the likeliest, without log-probabilities (B, 0).
        """
        decoding, choices = self.decoding, self.decoding.choices
        none = image.tokens.new_zeros(len(batch), 0)
        if not len(batch):
            return batch.row.new_zeros(0, 0), none, image.tokens.new_zeros(0, len(choices))
        prompts = self._joined(batch, image, None)
        if choices:
            inputs, mask = padded_on_the_left(prompts.inputs, prompts.mask)
            text, at_once = self.text_encoder, _CACHED // mask.shape[1]
            positions = text.own_positions(inputs, mask, behind=max(map(len, choices)))
            scores = answer_scores(text.backbone, text.log_probs, inputs, mask, positions, choices, at_once)
            return padded_answers(choices, -1, batch.row.device)[scores.argmax(1)], none, scores
        tokens, log_probs = generate(self.text_encoder, prompts.inputs, prompts.mask, decoding, batch.row)
        if log_probs is None:
            log_probs = self._answer_log_probs(replace(batch, target=tokens), image)[:, : tokens.shape[1]]
        return tokens, log_probs, none

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
        smoothing = self.label_smoothing if self.training else 0.0
        found = self.text_encoder.log_probs(predicting, tokens[known], smoothing)
        return found.new_zeros(known.shape).masked_scatter(known, found)

    def _joined(self, batch: Batch, image: Encoded, answer: Tensor | None) -> Sequences:
        """Prompts, images and answers (B, A), -1 for padding, as sequences."""
        ids, mask = self._prompts(batch)
        answer = ids.new_empty(len(ids), 0) if answer is None else answer
        laid = lay_out(ids, mask, image.mask, answer >= 0)
        embed = self.text_encoder.embed
        prompt = embed(ids.clamp_min(0)) if self._given_prompts is None else self._given_prompts
        tokens = torch.cat([prompt, image.tokens.to(prompt.dtype), embed(answer.clamp_min(0))], dim=1)
        size = padded_length(int(laid.mask.sum(1).max()), laid.mask.shape[1])  # of the longest row
        order = laid.order[:, :size, None].expand(-1, -1, tokens.shape[2])
        return Sequences(
            {"inputs_embeds": tokens.gather(1, order)}, laid.mask[:, :size], laid.prompt_length, laid.order
        )

    def sequence_lengths(self, batch: Batch) -> Tensor:
        """(B,) int64 tokens of prompt, images and answer of each row."""
        ids, mask = self._prompts(batch)
        marks = (ids == IMAGE_MARK) & mask
        of_image = torch.where(batch.image_present, self.image_tokens, self.stand_in_tokens)
        lengths = (mask & ~marks).sum(1) + of_image * marks.any(1) if batch.images is None else mask.sum(1)
        return lengths if batch.target is None else lengths + (batch.target >= 0).sum(1)

    @torch.no_grad()
    def start_packing(self) -> None:
        """From now on rows are read side by side in few sequences, which is tried with three rows.

        Their images stand at different places, so that a mask made for one row does not fit another.

        Raises:
            UserError: this language model lets rows of one sequence see each other, or counts their positions on.
        """
        vector = self.missing_image.vector
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(3, self.image_tokens, len(vector), generator=generator).to(vector)
        places = torch.arange(5, device=vector.device).expand(3, -1)
        answer = places.where(places < torch.tensor([[1], [5], [3]], device=vector.device), -1)
        empty, end = self.text_encoder.tokenizer.empty, self.text_encoder.tokenizer.eos_token_id
        ids = torch.tensor([[*[end] * more, *empty, *[0] * (4 - more)] for more in (0, 1, 4)], device=vector.device)
        mask = torch.arange(ids.shape[1]) < torch.tensor([[0], [1], [4]]) + len(empty)
        there = torch.ones(3, dtype=torch.bool, device=vector.device)
        batch = Batch(None, ids, mask.to(ids.device), there, there, row=places[:, 0], weight=torch.ones(3))
        image = Encoded(images, torch.ones_like(images[..., 0], dtype=torch.bool), images[:, 0])
        rows = self._joined(batch, image, answer)
        self.text_encoder.start_packing(rows.inputs, rows.mask)

    def _prompts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Ids (B, L) and mask (B, L) of the prompts."""
        device = batch.row.device
        if batch.images is not None:
            return prompts_in_pieces(batch, self.text_encoder.tokenizer, self.images)
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
