"""Rows of a split with the image or the text exchanged or removed, to measure what a model uses of each modality.

The assignment is computed for the whole split at once, so that it does not depend on batches and workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
from torch.utils.data import Dataset

from mmft.batch import BadRow, Sample
from mmft.data.dataset import RowDataset
from mmft.data.gathered import NOBODY, Positions
from mmft.data.hashing import unit_hashes
from mmft.data.splitting.splits import Split


class Exchanged(Dataset[Sample]):
    """A data set whose rows have other rows' images and texts, or none; everything else is their own.

    Args:
        rows: the data set.
        images: (rows,) position whose image each row gets, or `NOBODY` for none.
        texts: (rows,) the same for texts.
        bad: the known bad rows, by row number; they stay bad.
    """

    def __init__(self, rows: RowDataset, images: Positions, texts: Positions, bad: Mapping[int, BadRow]) -> None:
        self.rows, self.images, self.texts, self.bad = rows, images, texts, bad

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Sample:
        row = int(self.rows.split.rows[position])
        if row in self.bad:  # includes rows whose own image is bad
            return Sample(row, bad=self.bad[row])
        image, text = (
            None if whose[position] == NOBODY else int(whose[position]) for whose in (self.images, self.texts)
        )
        return self.rows.sample(position, image, text)


def exchange(names: list[str], contents: list[str], seed: int, purpose: str) -> Positions:
    """A permutation of R rows after which as few rows as possible keep their content.

    It compares content, not position: rows with the same image (several captions) get another image. Rows are sorted by
    content, groups of equal content in random order, and each row gets the content m places further, m being the size
    of the largest group. If m is at most R / 2, no row keeps its content; otherwise 2 m - R rows of the largest group
    do, for lack of others. If all contents differ, the result is one random cycle.

    Args:
        names: R row ids; the assignment depends on these and the seed, not on the table's order.
        contents: R, equal for rows with equal content.
        seed: of the run.
        purpose: makes draws for different purposes independent.

    Returns:
        (R,) index of the row whose content each row gets.
    """
    if not names:
        return np.zeros(0, dtype=np.int64)
    groups = unit_hashes(contents, seed, f"{purpose} content")
    order = np.lexsort((unit_hashes(names, seed, f"{purpose} row"), groups))
    largest = int(np.unique(groups, return_counts=True)[1].max())
    given = np.empty(len(names), dtype=np.int64)
    given[order] = np.roll(order, -largest)
    return given


def exchanged_images(split: Split, positions: Positions, seed: int, together: Positions | None = None) -> Positions:
    """(rows,) position whose image each row gets, among `positions` with an image; other rows keep their own.

    Args:
        split: the rows; images are equal if their path or their bytes are.
        positions: the rows that take part.
        seed: of the run.
        together: (rows,) equal for rows that belong together, for pair tasks: a row then does not get the image of
            these either, because it matches. Ignored if more than half of the rows belong together.
    """
    own = {at: split.table.image(int(split.rows[at])) for at in positions.tolist()}
    contents = {
        at: image if isinstance(image, str) else blake2b(image).hexdigest()
        for at, image in own.items()
        if image is not None
    }
    return _exchanged(split, contents, seed, "exchanged images", together)


def exchanged_texts(split: Split, positions: Positions, seed: int, together: Positions | None = None) -> Positions:
    """(rows,) position whose text each row gets; arguments as in `exchanged_images`."""
    texts = split.table.texts(split.rows[positions])
    contents = {at: text for at, text in zip(positions.tolist(), texts, strict=True) if text is not None}
    return _exchanged(split, contents, seed, "exchanged texts", together)


def _exchanged(
    split: Split, contents: dict[int, str], seed: int, purpose: str, together: Positions | None
) -> Positions:
    places = np.array(list(contents), dtype=np.int64)
    names = [split.table.id(row) for row in split.rows[places].tolist()]
    apart = list(contents.values())
    if together is not None and 2 * np.unique(together[places], return_counts=True)[1].max(initial=0) <= len(places):
        apart = [str(number) for number in together[places]]
    whose = np.arange(len(split))
    whose[places] = places[exchange(names, apart, seed, purpose)]
    return whose
