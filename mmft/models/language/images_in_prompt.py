"""Prompts of rows with any number of images in any number of pieces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmft.batch import Batch
from mmft.batch.images import ImagesInPrompt, padded
from mmft.models.language.prompt_tokenizer import IMAGE_MARK, PromptTokenizer, learned


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
