"""Prompts of rows with any number of images in any number of pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmft.batch import Batch
from mmft.batch.images import ImagesInPrompt, Pieces, padded
from mmft.models.language.prompt_tokenizer import IMAGE_MARK, PromptTokenizer, learned


class SquareImages:
    """Images in one piece each, of which a row has several.

    Args:
        image_tokens: of each.
        stand_in_tokens: in place of a missing one.
    """

    cuts = False

    def __init__(self, image_tokens: int, stand_in_tokens: int) -> None:
        self.room: int | None = None
        self._tokens = image_tokens, stand_in_tokens
        nothing = torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
        self.missing = Pieces(torch.zeros(1, 1, dtype=torch.int64), nothing, torch.zeros(1, dtype=torch.bool))

    def cut(self, pixels: npt.NDArray[np.uint8]) -> Pieces:
        """(S, S, 3) RGB -> the image in one piece."""
        return Pieces.of_square(torch.from_numpy(pixels).permute(2, 0, 1))

    def known(self, about: Tensor) -> Pieces:
        """An image (1,) whose pixels are not needed."""
        return replace(self.missing, about=about[None])

    def counts(self, about: Tensor) -> Tensor:
        """(I, 1) -> (I,) int64 tokens of each image."""
        own, other = self._tokens
        return torch.where(about[:, 0] > 0, own, other)

    def expanded(self, ids: list[int], about: Tensor) -> list[int]:
        """A prompt's tokens with a mark for each token of its images (I, 1), in place of one mark for each image."""
        return placed(ids, [[IMAGE_MARK] * count for count in self.counts(about).tolist()])


def placed(ids: list[int], images: Sequence[list[int]]) -> list[int]:
    """A prompt's tokens with those of its images in the place of their marks.

    The last mark takes all images that are left, and marks that find none left are taken out: images may be those of
    another row.
    """
    marks, found, taken = ids.count(IMAGE_MARK), list[int](), 0
    for token in ids:
        if token != IMAGE_MARK:
            found.append(token)
            continue
        marks -= 1
        own = images[taken : taken + 1] if marks else images[taken:]
        found += [one for image in own for one in image]
        taken += len(own)
    return found


def prompts_in_pieces(batch: Batch, tokenizer: PromptTokenizer, images: ImagesInPrompt) -> tuple[Tensor, Tensor]:
    """Ids (B, L) and mask (B, L) of the prompts of a batch with `images`, the empty prompt for rows without a text."""
    assert batch.images is not None
    assert batch.input_ids is not None
    assert batch.attention_mask is not None
    ids, mask = batch.input_ids, batch.attention_mask
    ids = ids.where(ids >= IMAGE_MARK, learned(ids))
    if bool(batch.text_present.all()):
        return ids, mask
    rows = [own[real].tolist() for own, real in zip(ids, mask, strict=True)]
    about = batch.images.pieces.about.split(batch.images.count.tolist())
    for row in (~batch.text_present).nonzero().squeeze(1).tolist():
        rows[row] = images.expanded(tokenizer.empty, about[row])
    flat = torch.tensor([token for row in rows for token in row], device=ids.device)
    found, real = padded(flat, torch.tensor([len(row) for row in rows], device=ids.device))
    missing = max(0, ids.shape[1] - found.shape[1])
    return nn.functional.pad(found, (0, missing)), nn.functional.pad(real, (0, missing))
