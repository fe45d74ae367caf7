"""A batch whose rows come with candidates: each row as a pair that belongs together, and as one that does not.

The negative of a row is its image with one of its candidates, drawn by the odds that the model itself, as it is,
gives them to fit: any at first, and the harder the better the model is. So ALBEF does (Li et al. 2021, arXiv
2107.07651), by the odds of a contrastive model that is trained beside. The one that fits best is no good choice: while
a model tells little apart that is noise, and the way out is to answer the same to all; see docs/decisions.md.

The draw takes place within the micro-batch, and yet depends on nothing but the row, its candidates, their chances and
the weights (and dropout), so that the loss is a sum over rows and micro-batches, ranks and a resumption change nothing.
Only where two candidates are equal to the last digit may another order of adding up choose the other one.

Images and texts are encoded once. A candidate costs one pass of fusion and head without a gradient.

Legend: B rows, K candidates, L text tokens, U different texts, M rows that have a candidate, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmft.batch import Batch, Candidates, Encoded, Outputs
from mmft.models.layers import evaluated
from mmft.models.vision_language_model import VisionLanguageModel, present_rows
from mmft.tasks.identities import MATCH


def with_negatives(model: VisionLanguageModel, batch: Batch) -> tuple[Outputs, Batch]:
    """The model's outputs, and the rows that they are of.

    Args:
        model: in train mode, or in eval mode.
        batch: B rows. Without candidates nothing is done but `model(batch)`.

    Returns:
        Outputs of B + M rows, and these: the batch's own, then those that have a candidate once more, with the text
        of the one that is drawn and a target that says so. They have no images and texts of their own.
    """
    if batch.candidates is None:
        return model(batch), batch
    image = model.encode_image(batch, present_rows(batch.image_present))
    text, own, others = _texts(model, batch, batch.candidates)
    chosen = _drawn(model, image, text, others, batch.candidates)
    rows = batch.candidates.present.any(1).nonzero().squeeze(1)  # (M,)
    at = torch.cat([torch.arange(len(batch), device=rows.device), rows])  # (B + M,)
    image, text = _taken(image, at), _taken(text, torch.cat([own, chosen[rows]]))
    outputs = Outputs(model.head(model.fusion(image, text)), image.pooled, text.pooled)
    return outputs, _pairs(batch, at)


def _texts(model: VisionLanguageModel, batch: Batch, candidates: Candidates) -> tuple[Encoded, Tensor, Tensor]:
    """The different texts (U, L, D) of rows and candidates; which of them are the rows' own (B,), which the others'
    (B, K), the own one where there is no other.

    Texts are the same if their tokens are: a row's own may have been changed by augmentation.
    """
    assert batch.input_ids is not None
    assert batch.attention_mask is not None
    present = candidates.present
    ids = torch.cat([batch.input_ids, candidates.input_ids[present]])
    mask = torch.cat([batch.attention_mask, candidates.attention_mask[present]])
    told, number = torch.unique(2 * ids + mask, dim=0, return_inverse=True)  # (U, L), (B + ...,)
    own = number[: len(batch)]
    others = own[:, None].repeat(1, present.shape[1])
    others[present] = number[len(batch) :]
    there = torch.ones(len(told), dtype=torch.bool, device=told.device)
    rows = Batch(None, told // 2, told % 2 == 1, there, there, own.new_zeros(len(told)), there.float())
    return model.encode_text(rows, None), own, others


def _drawn(model: VisionLanguageModel, image: Encoded, text: Encoded, others: Tensor, candidates: Candidates) -> Tensor:
    """(B,) which of the texts `others` (B, K) each image gets; any, where a row has no candidate.

    With the odds of the softmax of their logits: the largest sum of logit and Gumbel noise (Maddison et al. 2014,
    arXiv 1411.0030), which is made of the candidates' chances.
    """
    if others.shape[1] <= 1:
        return others.new_zeros(len(others)) if others.shape[1] == 0 else others[:, 0]
    with torch.no_grad(), evaluated(model.fusion, model.head):
        scores = [model.head(model.fusion(image, _taken(text, one)))[:, 0] for one in others.unbind(1)]
    torch.clear_autocast_cache()  # weights that were cast without a graph would get no gradient
    noise = -torch.log(-torch.log(candidates.chance))
    sums = (torch.stack(scores, dim=1) + noise).masked_fill(~candidates.present, -torch.inf)
    return others.gather(1, sums.argmax(1, keepdim=True)).squeeze(1)


def _taken(encoded: Encoded, rows: Tensor) -> Encoded:
    return Encoded(*(part[rows] for part in encoded))


def _pairs(batch: Batch, at: Tensor) -> Batch:
    """The rows `at`, of which the first B are the batch's own and all others do not belong together."""
    assert batch.target is not None
    target = batch.target[at]
    target[len(batch) :, MATCH] = 0
    there = torch.ones(len(at), dtype=torch.bool, device=at.device)
    return Batch(None, None, None, there, there, batch.row[at], batch.weight[at], target)
