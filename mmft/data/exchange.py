"""The rows of a split with the image or the text of another row, or without: what a model makes of either modality.

Who gets whose is worked out for the whole split at once, so that batches and workers change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
from torch.utils.data import Dataset

from mmft.batch import BadRow, Sample
from mmft.data.dataset import NOBODY, Positions, RowDataset
from mmft.data.hashing import unit_hashes
from mmft.data.splits import Split


class Exchanged(Dataset[Sample]):
    """A data set whose rows have other rows' images and texts, or none; everything else is their own.

    Args:
        rows: the data set.
        images: (rows,) by position: whose image it has, `NOBODY`: none.
        texts: (rows,) the same for texts.
        bad: the rows that are known to be bad, by row number; they stay so.
    """

    def __init__(self, rows: RowDataset, images: Positions, texts: Positions, bad: Mapping[int, BadRow]) -> None:
        self.rows, self.images, self.texts, self.bad = rows, images, texts, bad

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Sample:
        row = int(self.rows.split.rows[position])
        if row in self.bad:  # known by now from its image, too
            return Sample(row, bad=self.bad[row])
        image, text = (
            None if whose[position] == NOBODY else int(whose[position]) for whose in (self.images, self.texts)
        )
        return self.rows.sample(position, image, text)


def exchange(names: list[str], contents: list[str], seed: int, purpose: str) -> Positions:
    """A permutation of R rows after which as few as possible have what they had before.

    By content, not by place: rows with the same image (several captions each) get another one. Rows with the same
    content stand side by side, these groups in an order that is drawn, and each row gets what stands m places further,
    m the size of the largest group. So nobody keeps his own where m is at most R / 2, and otherwise only the
    2 m - R of the largest group for whom there is nothing else. Where all contents differ it is one random cycle.

    Args:
        names: R ids of rows; whose place a row takes depends on them and the seed, not on the table's order.
        contents: R, equal for rows with equal content.
        seed: of the run.
        purpose: keeps draws for different ends independent.

    Returns:
        (R,) whose content each row gets.
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
    """(rows,) whose image each row gets, among the rows at `positions` that have one; all others keep what they have.

    Args:
        split: the rows; the same image is the same path or the same bytes.
        positions: those that take part.
        seed: of the run.
        together: (rows,) equal for rows that belong together, of a task of pairs: there a row does not get the image
            of one of these either, since it fits. Where more than half of the rows do, only not its own.
    """
    own = {at: split.table.image(int(split.rows[at])) for at in positions.tolist()}
    contents = {
        at: image if isinstance(image, str) else blake2b(image).hexdigest()
        for at, image in own.items()
        if image is not None
    }
    return _exchanged(split, contents, seed, "exchanged images", together)


def exchanged_texts(split: Split, positions: Positions, seed: int, together: Positions | None = None) -> Positions:
    """(rows,) whose text each row gets, as `exchanged_images`."""
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
