"""Augmented training rows: the random draws of each row of an epoch, and the data set that applies them.

    Order -> Draws -> LogicalBatches -> (workers) AugmentedRows -> Sample

A row's augmentation depends on seed, epoch, row number and how often the row occurred before in the epoch. These are
sent to the workers with each row, so that workers are stateless and persist across epochs. The partner for mixup and
cutmix also depends on the order of the epoch. Batch sizes, workers and ranks have no influence, so a run can resume
anywhere.

Legend: R rows of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset

from mmft.batch import Sample
from mmft.data.dataset import RowDataset
from mmft.data.images.augment import Augmentation
from mmft.data.order import Order, Stream, philox_order, random_words


class Draws:
    """Callable `epoch -> (R, 4)` int64: position, epoch, number of earlier occurrences in the epoch, partner.

    With `data.sampler=balanced` a row may occur several times in an epoch and is augmented differently each time. Each
    row of an epoch is the partner of exactly one, so that partners have the same class frequencies as the rows.

    Args:
        order: positions of an epoch.
        seed: of the run.
        mixes: whether to draw partners; otherwise each row is its own partner.
    """

    def __init__(self, order: Order, seed: int, mixes: bool) -> None:
        self._order, self._seed, self._mixes = order, seed, mixes

    def __call__(self, epoch: int) -> npt.NDArray[np.int64]:
        """The draws of `epoch` (from 0), in order."""
        order = self._order(epoch)
        partners = order
        if self._mixes:
            partners = order[philox_order(len(order), self._seed, epoch, Stream.PARTNERS)]
        return np.stack([order, np.full_like(order, epoch), times_before(order), partners], axis=1)


def times_before(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(R,) -> (R,) number of earlier occurrences of each entry's value."""
    by_value = np.argsort(order, kind="stable")
    values = order[by_value]
    times = np.empty_like(order)
    times[by_value] = np.arange(len(order)) - np.searchsorted(values, values)
    return times


class AugmentedRows(Dataset[Sample]):
    """The rows of `RowDataset`, augmented by their draws.

    With a drawn caption each if texts are captions, and a drawn target each if there are several.

    Bad rows stay bad.

    With `RowDataset.views`, a row's image is one of its views, whose draws depend on (seed, row, view) alone.

    A row is mixed with its partner if both have an image and the partner is another row. The partner's image is
    augmented first, with its own draws; only its image and target are used.

    Args:
        rows: of the training split.
        change: the augmentation.
        seed: of the run.
    """

    def __init__(self, rows: RowDataset, change: Augmentation, seed: int) -> None:
        self.rows, self.change, self.seed = rows, change, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Sequence[int]) -> Sample:
        """The row of a line of `Draws`."""
        position, epoch, before, partner = draw
        view = None if self.rows.views is None else self.rows.views.number(epoch, before)
        kept = None if view is None else self.rows.stored_view(position, view)
        sample = self.rows.sample(position, position if kept is None else None, position)
        if sample.bad is not None:
            return sample
        for_image, for_text, for_partner, for_mix, for_caption, for_target = self._seeds(epoch, sample.row, before)
        pixels, ids, captions = sample.pixel_values, sample.input_ids, self.rows.captions
        if captions is not None:
            ids = captions.drawn(position, for_caption)
        if self.rows.drawn is not None:
            sample = replace(sample, target=self.rows.drawn.of(position, for_target))
        sample = replace(
            sample,
            pixel_values=None if pixels is None else self._image(pixels, for_image, sample.row, view),
            stored_image=sample.stored_image if kept is None else kept,
            input_ids=None if ids is None else self.change.text(ids, for_text),
        )
        return sample if partner == position else self._mixed(sample, self.rows[partner], for_partner, for_mix)

    def _image(self, pixels: Tensor, seed: int, row: int, view: int | None) -> Tensor:
        views = self.rows.views
        return self.change.image(pixels, seed) if views is None or view is None else views.image(pixels, row, view)

    def text(self, position: int, epoch: int) -> Tensor:
        """(L,) int64 tokens of the row's text, augmented as at its first occurrence in `epoch`."""
        for_text = self._seeds(epoch, int(self.rows.split.rows[position]), 0)[1]
        return self.change.text(self.rows.text(position), for_text)

    def _mixed(self, sample: Sample, partner: Sample, for_partner: int, for_mix: int) -> Sample:
        if sample.pixel_values is None or partner.pixel_values is None:
            return sample
        other = self.change.image(partner.pixel_values, for_partner)
        pixels, share = self.change.mix(sample.pixel_values, other, for_mix)
        return replace(sample, pixel_values=pixels, mixed_target=partner.target, mixed_share=share)

    def _seeds(self, epoch: int, row: int, before: int) -> list[int]:
        """Six seeds, a pure function of (seed, epoch, row, earlier occurrences)."""
        words = random_words(6, self.seed, epoch, Stream.AUGMENTATION, row, before)
        return [int(word) for word in words >> np.uint64(1)]
