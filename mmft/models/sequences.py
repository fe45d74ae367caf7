"""The order of a row's tokens in the one sequence that a language model reads:

    [prompt before the image][image][prompt after it][answer, end-of-text]

without holes. Legend: B batch, L prompt tokens, M image tokens, A answer tokens, S = L + M + A.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmft.batch import Batch
from mmft.models.language.prompt_tokenizer import IMAGE_MARK, learned


class Layout(NamedTuple):
    """Where the tokens of B sequences come from; padding is on the right."""

    order: Tensor  # (B, S) int64, for each place, which one it is of prompt, image and answer side by side
    mask: Tensor  # (B, S) bool, True = real token
    prompt_length: Tensor  # (B,) int64, tokens of prompt and image


def lay_out(ids: Tensor, prompt: Tensor, image: Tensor, answer: Tensor) -> Layout:
    """Puts the images' tokens in the places of the `IMAGE_MARK`s of each prompt, and the answer behind it.

    Each mark takes one token, and the last one all that are left: a single mark, the whole image.

    Args:
        ids: (B, L) int64; a prompt without a mark is read without the image.
        prompt: (B, L) bool, True = real token.
        image: (B, M) bool.
        answer: (B, A) bool.
    """
    length, count = ids.shape[1], image.shape[1]

    def every(size: int) -> Tensor:
        return torch.arange(size, device=ids.device).expand(len(ids), -1)

    marks = (ids == IMAGE_MARK) & prompt
    places = (~marks).long().argsort(dim=1, stable=True)  # (B, L) the marks' first
    which = torch.minimum(every(count), marks.sum(1, keepdim=True) - 1).clamp_min(0)  # (B, M) mark of each token
    step = count + 1  # so that the image's tokens fit between two of the prompt
    of_image = places.gather(1, which) * step + every(count)
    keys = [every(length) * step, of_image, (length + every(answer.shape[1])) * step]
    real = torch.cat([prompt & ~marks, image & marks.any(1, keepdim=True), answer], dim=1)  # (B, S)
    last = (length + answer.shape[1]) * step
    order = torch.cat(keys, dim=1).masked_fill(~real, last).argsort(dim=1, stable=True)
    return Layout(order, real.gather(1, order), (real.sum(1) - answer.sum(1)))


def learned_tokens(batch: Batch) -> Tensor | None:
    """(B, L) int64 tokens of prompts that are learned, -1 for others; None if no row has any."""
    if batch.input_ids is None:
        return None
    found = (batch.input_ids < IMAGE_MARK) & batch.text_present[:, None]
    return learned(batch.input_ids).where(found, -1) if found.any() else None


def learned_counts(batch: Batch) -> Tensor:
    """(B,) number of tokens of each row that are learned: of its answer, and of earlier ones in its conversation."""
    assert batch.target is not None
    count = (batch.target >= 0).sum(1)
    earlier = learned_tokens(batch)
    return count if earlier is None else count + (earlier >= 0).sum(1)
