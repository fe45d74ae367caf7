"""Nearest neighbours among stored rows, as a head.

Legend: B batch, R stored rows, F width of the features, C outputs, K neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_BLOCK = 256  # rows compared at once
_DIGITS = 1e9  # similarities that differ by less than its inverse are equal
COSINE = 0.07
"""Temperature of votes weighted by similarity (Caron et al. 2021, arXiv 2104.14294)."""


class Near(NamedTuple):
    """The nearest of the stored rows, the nearest first."""

    similarity: Tensor  # (B, K) cosine
    row: Tensor  # (B, K) int64

    def mean_votes(self, votes: Tensor, weight: Tensor, count: int, temperature: float) -> Tensor:
        """(B, C) the mean vote of the `count` nearest, weighted by exp(similarity / temperature) and by row.

        Args:
            votes: (R, C) of the stored rows.
            weight: (R,) of the stored rows.
            count: at most K.
            temperature: `inf` weighs all neighbours alike.
        """
        row, similarity = self.row[:, :count], self.similarity[:, :count]
        share = ((similarity - similarity[:, :1]) / temperature).exp() * weight[row]  # (B, K)
        share = share / share.sum(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
        mean = votes.new_zeros(len(row), votes.shape[1], dtype=share.dtype)
        for k in range(row.shape[1]):  # (B, K, C) at once would be large
            mean = mean + share[:, k, None] * votes[row[:, k]]
        return mean


def nearest(rows: Tensor, queries: Tensor, count: int) -> Near:
    """The `count` stored rows (R, F) nearest to each of the queries (B, F), all of length 1; fewer if R is smaller.

    Of equally near rows, such as those with one text, the first are taken: sums in float32 are rounded differently in
    another batch, which would then decide.
    """
    held = rows.double()
    later = torch.arange(len(rows), device=rows.device) / max(1, len(rows))  # (R,) below 1
    found = []
    for block in queries.split(_BLOCK):
        similarity = block.double() @ held.T  # (B, R)
        row = ((similarity * _DIGITS).round() - later).topk(min(count, len(rows)), dim=1).indices
        found.append(Near(similarity.gather(1, row).to(rows.dtype), row))
    return Near(*(torch.cat(column) for column in zip(*found, strict=True)))


def directions(features: Tensor, image_width: int) -> Tensor:
    """Image and text features side by side (B, F) -> (B, F) of length 1, to which both contribute alike.

    The scalar product of two rows is the mean cosine of their images and of their texts.
    """
    parts = (features[:, :image_width], features[:, image_width:])
    return torch.cat([functional.normalize(part, dim=1) for part in parts], dim=1) * math.sqrt(0.5)


class NearestNeighbours(nn.Module):
    """Predicts from the mean vote of the nearest rows, by the cosines of image and text features.

    It has no parameters; the rows are buffers, of which a state dict may hold any number.

    Args:
        width: F.
        votes: C.
        outputs_of: mean votes (B, C) -> outputs (B, C).
    """

    rows: Tensor
    votes: Tensor
    weight: Tensor
    image_width: Tensor
    count: Tensor
    temperature: Tensor

    def __init__(self, width: int, votes: int, outputs_of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.outputs_of = outputs_of
        self.hold(
            rows=torch.zeros(0, width),  # (R, F) directions
            votes=torch.zeros(0, votes),  # (R, C)
            weight=torch.zeros(0),  # (R,)
            image_width=torch.tensor(0),
            count=torch.tensor(1),
            temperature=torch.tensor(math.inf),
        )

    def hold(self, **buffers: Tensor) -> None:
        """Takes the buffers by name."""
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, C)."""
        count = int(self.count)
        with torch.autocast(features.device.type, enabled=False):
            near = nearest(self.rows, directions(features.to(self.rows.dtype), int(self.image_width)), count)
            return self.outputs_of(near.mean_votes(self.votes, self.weight, count, float(self.temperature)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("rows", "votes", "weight"):
            given, own = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if given is not None and given.shape[1:] == own.shape[1:]:
                self.hold(**{name: own.new_empty(given.shape)})
        super()._load_from_state_dict(state_dict, prefix, *args)
