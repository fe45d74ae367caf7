"""Cross-validation: assigns rows to folds and holds one fold out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmft.config.schema.data import DataConfig
from mmft.data.splitting.fractions import Names, fraction_splits
from mmft.data.splitting.units import units_of
from mmft.data.table import Table
from mmft.errors import UserError


def fold_splits(
    table: Table, known: Sequence[str | None] | None, has_test: bool, config: DataConfig, seed: int
) -> Names:
    """The split of every row when fold `data.fold` of `data.folds` is held out.

    Units (`mmft.data.splitting.units`) are assigned to folds by the hash of their name, stratified by label. Each unit
    is in one fold, so over all folds each row is held out once. Rows that `known` marks as `test` are in no fold.

    Args:
        table: the rows.
        known: `train`, `val`, `test` or None (unknown) by row, from a split column; `train` and `val` are reassigned.
        has_test: whether this or another table has test rows: the fold is then held out as `val`. Otherwise it is
            `test`, and the rest is split into `train` and `val` in the ratio of `data.fractions`.
        config: the keys below `data`.
        seed: of the run.

    Returns:
        (rows,) str, empty if the split is unknown.

    Raises:
        UserError: ids are not unique.
    """
    names = np.array(["train"] * len(table) if known is None else [name or "" for name in known], dtype="<U5")
    dealt = np.flatnonzero((names == "train") | (names == "val"))
    folds, fractions = config.folds or 1, config.fractions
    shares = {str(number): 1 / folds for number in range(folds)}
    units = units_of(table, config.drawing)
    held = fraction_splits(table, shares, seed, units, dealt, purpose=f"{folds} folds") == str(config.fold)
    if has_test:
        names[dealt] = np.where(held, "val", "train")
        return names
    names[dealt[held]] = "test"
    rest = dealt[~held]
    train = fractions.train / (fractions.train + fractions.val)
    names[rest] = fraction_splits(table, {"train": train, "val": 1 - train}, seed, units, rest)
    return names


def folds_of(table: Table, rows: npt.NDArray[np.int64], count: int, seed: int, drawing: str) -> npt.NDArray[np.int64]:
    """(rows,) the fold, from 0, of each of `rows`, drawn as `data.folds` draws them; all 0 if ids are not unique."""
    try:
        units = units_of(table, drawing)
    except UserError:
        return np.zeros(len(rows), dtype=np.int64)
    shares = {str(number): 1 / count for number in range(count)}
    return fraction_splits(table, shares, seed, units, rows, purpose=f"{count} folds of a probe").astype(np.int64)
