"""Feature distillation: trained encoders keep their pooled features near those of their frozen start.

The distance is that of the last features in LDIFS (Mukhoti et al. 2023, arXiv 2308.13320), relative to their length, so
that the weight means the same for every encoder.

Legend: B rows of this rank's share, D an encoder's pooled width, M modalities.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmft.batch import Batch, Outputs
from mmft.models.encoder import Encoder
from mmft.models.precision import at_least_float32
from mmft.models.vision_language_model import present_rows


class Distillation:
    """For each encoder a loss term: the mean of |f - f_start|^2 / |f_start|^2 over the rows with its modality.

    Args:
        encoders: by `image` and `text`, before tuning methods are applied; they are copied.
        weight: of each term.
    """

    def __init__(self, encoders: Mapping[str, Encoder], weight: float) -> None:
        self._starts = {modality: _frozen_copy(encoder) for modality, encoder in encoders.items()}
        self.terms = {f"distillation/{modality}": weight for modality in encoders}

    @torch.no_grad()
    def with_start(self, batch: Batch, micro_batch_size: int | None, like: Tensor) -> Batch:
        """The batch with the start's features of its rows, computed in micro-batches.

        Args:
            batch: this rank's share, as the model gets it.
            micro_batch_size: rows computed at once; None for all.
            like: a tensor of the model, for device and dtype.
        """
        found: dict[str, Any] = {}
        for modality, start in self._starts.items():
            start.to(device=like.device, dtype=like.dtype)
            parts = [_pooled(start, rows, modality) for rows in batch.split(micro_batch_size)]
            found[f"start_{modality}"] = torch.cat(parts) if parts else None
        return replace(batch, **found)

    def normalisers(self, batch: Batch) -> Tensor:
        """(M,) float64, the weight of the rows in each term."""
        return torch.stack([_weight(batch, modality).double().sum() for modality in self._starts])

    def sums(self, outputs: Outputs, batch: Batch) -> Tensor:
        """(M,) sums over the rows (B), which have the start's features; 0 without any."""
        return torch.stack([self._sum(outputs, batch, modality) for modality in self._starts])

    def _sum(self, outputs: Outputs, batch: Batch, modality: str) -> Tensor:
        now, start = at_least_float32(getattr(outputs, modality)), getattr(batch, f"start_{modality}")
        if start is None:
            return now.new_zeros(())
        with torch.autocast(now.device.type, enabled=False):
            start = start.to(now)
            distance = (now - start).square().sum(1) / start.square().sum(1).clamp_min(
                torch.finfo(now.dtype).tiny
            )  # (B,)
            weight = _weight(batch, modality).to(now)
            return torch.where(weight > 0, distance * weight, 0).sum()


def _frozen_copy(encoder: Encoder) -> Encoder:
    """A copy in eval mode; it shares the tokenizer, which has no weights."""
    tokenizer: Any = getattr(encoder, "tokenizer", None)
    return copy.deepcopy(encoder, {id(tokenizer): tokenizer}).requires_grad_(False).eval()


def _pooled(encoder: Encoder, batch: Batch, modality: str) -> Tensor:
    """(B, D) pooled features, zeros for rows without the modality."""
    image = modality == "image"
    given = [batch.pixel_values] if image else [batch.input_ids, batch.attention_mask]
    present = batch.image_present if image else batch.text_present
    found = torch.zeros(len(batch), encoder.widths.pooled, device=present.device)
    if any(part is None for part in given) or not present.any():
        return found
    rows = present_rows(present)
    pooled = encoder(*(part if rows is None or part is None else part[rows] for part in given)).pooled
    return pooled if rows is None else found.to(pooled).index_copy(0, rows, pooled)


def _weight(batch: Batch, modality: str) -> Tensor:
    """(B,) row weights, 0 for a row without the modality."""
    return batch.weight * (batch.image_present if modality == "image" else batch.text_present)
