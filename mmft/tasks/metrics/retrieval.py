"""Retrieval metrics over a whole split, image to text and text to image, computed in blocks.

Legend: R rows, Q queries, q queries of a block, G gallery, P width of the embeddings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

_CUTS = (1, 5, 10)
_WAYS = ("image_to_text", "text_to_image")
_BLOCK = 2**23  # similarities computed at once: 32 MiB
_Ints = npt.NDArray[np.int64]


class RetrievalMetric(Metric):
    """Recall at 1, 5 and 10, median rank and mean reciprocal rank of the best-ranked positive, in both directions.

    An image shared by several rows is one query and one gallery entry, and so is a text. An image's positives are the
    texts of all its rows and of its rows' groups, so that an image with five captions is found by each of them. Ties
    rank before the positive, so that a constant score gets no credit. The result does not depend on the row order.
    """

    image: list[Tensor]
    text: list[Tensor]
    target: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("image", "text", "target"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @staticmethod
    def names() -> list[str]:
        """The keys of `compute`."""
        each = [*(f"recall@{k}" for k in _CUTS), "median_rank", "mrr"]
        return [*(f"{way}/{name}" for way in _WAYS for name in each), "mean_recall"]

    def update(self, image: Tensor, text: Tensor, target: Tensor) -> None:
        """Adds rows: unit-length embeddings (B, P); image, text, group (or -1) and more, (B, 3 or more) int64."""
        self.image.append(image.float())
        self.text.append(text.float())
        self.target.append(target)

    def compute(self) -> dict[str, Tensor]:
        """() float64 each, by name."""
        image, text, target = (torch.cat(part) for part in (self.image, self.text, self.target))
        links = Links.of(target[:, :3].cpu().numpy())
        images, texts = image[links.first_image], text[links.first_text]
        found: dict[str, Tensor] = {}
        both = ranks(images, texts, links.texts_of_image), ranks(texts, images, links.images_of_text)
        for way, rank in zip(_WAYS, both, strict=True):
            found |= {f"{way}/recall@{k}": (rank <= k).double().mean() for k in _CUTS}
            found[f"{way}/median_rank"] = rank.double().quantile(0.5)
            found[f"{way}/mrr"] = (1 / rank.double()).mean()
        recalls = [value for name, value in found.items() if "recall@" in name]
        return found | {"mean_recall": torch.stack(recalls).mean()}


class Sparse(NamedTuple):
    """A set of numbers per query in CSR form: those of query q are `values[offsets[q]:offsets[q + 1]]`."""

    offsets: _Ints  # (Q + 1,)
    values: _Ints

    @classmethod
    def of(cls, keys: _Ints, values: _Ints, size: int) -> Sparse:
        """From (key, value) pairs, keys below `size`."""
        order = np.argsort(keys, kind="stable")
        offsets = np.searchsorted(keys[order], np.arange(size + 1))
        return cls(offsets, values[order])

    def of_all(self, queries: _Ints) -> tuple[_Ints, _Ints]:
        """All values of some queries, as two arrays: the index into `queries`, and the value."""
        counts = self.offsets[queries + 1] - self.offsets[queries]
        places = np.repeat(np.arange(len(queries)), counts)
        starts = np.repeat(self.offsets[queries] - (np.cumsum(counts) - counts), counts)
        return places, self.values[starts + np.arange(len(places))]


class Positives(NamedTuple):
    """The positives of each query: through its own rows, and through the groups of its rows."""

    by_row: Sparse
    groups: Sparse
    of_group: Sparse

    def of_block(self, queries: _Ints) -> tuple[_Ints, _Ints]:
        """Index into `queries` and gallery entry of each positive pair, possibly with duplicates."""
        place, entry = self.by_row.of_all(queries)
        grouped, group = self.groups.of_all(queries)
        inner, grouped_entry = self.of_group.of_all(group)
        return np.concatenate([place, grouped[inner]]), np.concatenate([entry, grouped_entry])


class Links(NamedTuple):
    """Distinct images and texts among the rows, and their positives."""

    first_image: _Ints  # (images,) the first row with the image
    first_text: _Ints  # (texts,)
    texts_of_image: Positives
    images_of_text: Positives

    @classmethod
    def of(cls, identity: _Ints) -> Links:
        """From (R, 3): image, text and group of each row; a group of -1 means no group."""
        (_, first_image, image), (_, first_text, text), (_, _, group) = (
            np.unique(column, return_index=True, return_inverse=True) for column in identity.T
        )
        grouped = identity[:, 2] >= 0
        groups = int(group.max()) + 1

        def positives(query: _Ints, entry: _Ints, queries: int) -> Positives:
            return Positives(
                Sparse.of(query, entry, queries),
                Sparse.of(query[grouped], group[grouped], queries),
                Sparse.of(group[grouped], entry[grouped], groups),
            )

        return cls(
            first_image,
            first_text,
            positives(image, text, len(first_image)),
            positives(text, image, len(first_text)),
        )


def ranks(queries: Tensor, gallery: Tensor, positives: Positives) -> Tensor:
    """(Q,) int64 rank, from 1, of each query's best positive among the entries that are not positives.

    Args:
        queries: (Q, P).
        gallery: (G, P).
        positives: of each query.
    """
    size = max(1, _BLOCK // len(gallery))
    found = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    scores = queries.new_empty(min(size, len(queries)), len(gallery))  # one buffer reused by all blocks
    for first in range(0, len(queries), size):
        block = queries[first : first + size]
        pairs = positives.of_block(np.arange(first, first + len(block)))
        place, entry = (torch.from_numpy(part).to(queries.device) for part in pairs)
        of_block = torch.mm(block, gallery.T, out=scores[: len(block)])  # (q, G)
        best = queries.new_full((len(block),), -torch.inf)  # (q,) score of the best positive
        best.scatter_reduce_(0, place, of_block[place, entry], "amax")
        of_block[place, entry] = -torch.inf  # other positives must not count as competitors
        found[first : first + size] = (of_block >= best[:, None]).sum(1) + 1
    return found
