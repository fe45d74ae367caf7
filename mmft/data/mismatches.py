"""Fixed negative texts for evaluation: each row is evaluated with one text that does not match its image.

Every text is assigned to one row, so that the text alone does not reveal a mismatch. The assignment depends only on
the split's rows, not on the run's seed, so that all runs are evaluated on the same pairs.

Legend: R rows of a split.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mmft.data.exchange import exchange
from mmft.data.gathered import NOBODY, Positions
from mmft.data.hashing import unit_hashes
from mmft.data.splitting.splits import Split
from mmft.tasks.identities import IDENTITY, MATCH, belong_together, standing_together

log = logging.getLogger(__name__)
_PURPOSE = "mismatched texts"


def mismatched_texts(split: Split, targets: Tensor, bad: set[int]) -> Positions:
    """(R,) position whose text is each row's negative; `NOBODY` for bad rows and rows with a label.

    Rows linked by equal images, texts or groups, also in a chain, form a component and get texts from other components
    (`exchange`). If one component holds more than half of the rows, some of its rows get the next text in the same
    random order that is not a positive, so a text may be used twice. A row to which all others are positives gets none.

    Args:
        split: the rows.
        targets: (R, 4) of pairs.
        bad: numbers of the rows that the table alone makes bad.
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
        log.warning("%d rows are positives of all others: only their own text is evaluated", lacking)
    return given


def _circle(names: list[str]) -> Positions:
    """(R,) the successor of each row in a random cycle."""
    order = np.argsort(unit_hashes(names, 0, f"{_PURPOSE} row"), kind="stable")
    following = np.empty_like(order)
    following[order] = np.roll(order, -1)
    return following


def _next_that_fits(identity: npt.NDArray[np.int64], rows: Positions, following: Positions) -> Positions:
    """For each of `rows`, the next row in the cycle `following` (R,) that is not a positive; `NOBODY` if all are."""
    found, at, left = np.full(len(rows), NOBODY), rows.copy(), np.arange(len(rows))
    for _ in range(len(following) - 1):
        at = following[at]
        fits = ~belong_together(identity[rows[left]], identity[at])
        found[left[fits]] = at[fits]
        left, at = left[~fits], at[~fits]
        if not len(left):
            break
    return found
