"""Which text each row is measured with that does not belong to its image: the same ones for ever.

Every text is dealt to one row, so that no text by itself tells whether it belongs. What is dealt depends on the
split's rows alone and not on the run's seed, so that all runs are measured on the same pairs.

Legend: R rows of a split.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mmft.data.dataset import NOBODY, Positions
from mmft.data.exchange import exchange
from mmft.data.hashing import unit_hashes
from mmft.data.splits import Split
from mmft.tasks.identities import IDENTITY, MATCH, belong_together, standing_together

log = logging.getLogger(__name__)
_PURPOSE = "mismatched texts"


def mismatched_texts(split: Split, targets: Tensor, bad: set[int]) -> Positions:
    """(R,) whose text each row is measured with, too; `NOBODY` for bad rows and those with a label.

    Rows that have the same image, text or group, or have such a one between them, stand together, and all get the
    texts of others (`exchange`). Where more than half of the rows do, some of these get the next text of the same
    random order with which they do not belong together themselves, and so a text may come twice; a row that belongs
    together with every other one gets none.

    Args:
        split: the rows.
        targets: (R, 4) of pairs.
        bad: numbers of the rows that are bad by the table alone.
    """
    identity, given = targets[:, IDENTITY].numpy(), np.full(len(split), NOBODY)
    labelled = targets[:, MATCH].numpy() >= 0
    places = np.array(
        [at for at, row in enumerate(split.rows.tolist()) if row not in bad and not labelled[at]], dtype=np.int64
    )
    names = [split.table.id(row) for row in split.rows[places].tolist()]
    own = identity[places]
    others = exchange(names, [str(number) for number in standing_together(own)], 0, _PURPOSE)
    wrong = np.flatnonzero(belong_together(own, own[others]))
    others[wrong] = _next_that_fits(own, wrong, _circle(names))
    given[places] = np.where(others == NOBODY, NOBODY, places[others])
    if lacking := int((others == NOBODY).sum()):
        log.warning("%d rows belong together with all others: they are measured with their own text alone", lacking)
    return given


def _circle(names: list[str]) -> Positions:
    """(R,) which row follows each, in a random order that closes."""
    order = np.argsort(unit_hashes(names, 0, f"{_PURPOSE} row"), kind="stable")
    following = np.empty_like(order)
    following[order] = np.roll(order, -1)
    return following


def _next_that_fits(identity: npt.NDArray[np.int64], rows: Positions, following: Positions) -> Positions:
    """For each of `rows` the first in the circle of `following` (R,) with which it does not belong together."""
    found, at, left = np.full(len(rows), NOBODY), rows.copy(), np.arange(len(rows))
    for _ in range(len(following) - 1):
        at = following[at]
        fits = ~belong_together(identity[rows[left]], identity[at])
        found[left[fits]] = at[fits]
        left, at = left[~fits], at[~fits]
        if not len(left):
            break
    return found
