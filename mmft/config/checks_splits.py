"""Checks of where rows come from and how they are split: what belongs together, and what would change nothing."""

from __future__ import annotations

import math
import os

from mmft.config.checks import check_train
from mmft.config.schema import TrainConfig
from mmft.config.schema.data import FractionsConfig
from mmft.config.validate import MUST
from mmft.shipped import located


@check_train("data.path", "data.train")
def one_source_of_rows(c: TrainConfig) -> str | None:
    """Rows come from one table, or from one file per split."""
    if c.data.path is None and c.data.train is None:
        return f"{MUST}: the table of rows. Type data.path=FILE, or data.train=FILE data.val=FILE data.test=FILE"
    if c.data.path is not None and c.data.train is not None:
        return "does not go with data.train: give one table (data.path), or one file per split (data.train ...)"
    return None


@check_train("data.val", "data.train")
def val_beside_train(c: TrainConfig) -> str | None:
    """`data.val` stands beside `data.train`."""
    return _beside_train("data.val", c.data.val, c)


@check_train("data.test", "data.train")
def test_beside_train(c: TrainConfig) -> str | None:
    """`data.test` stands beside `data.train`."""
    return _beside_train("data.test", c.data.test, c)


def _beside_train(key: str, value: str | None, c: TrainConfig) -> str | None:
    if value is None or c.data.train is not None:
        return None
    return f"needs data.train: type data.train=FILE for the training rows, or leave {key} out"


@check_train("data.train", "data.val", "data.test")
def different_files(c: TrainConfig) -> str | None:
    """No file is two splits."""
    files = [os.path.realpath(located(f)) for f in (c.data.train, c.data.val, c.data.test) if f is not None]
    if len(set(files)) == len(files):
        return None
    return "data.train, data.val and data.test must be different files: a row must not be in two splits"


@check_train("data.columns.split", "data.train")
def split_column_or_files(c: TrainConfig) -> str | None:
    """Splits come from a column or from files."""
    if c.data.columns.split is None or c.data.train is None:
        return None
    return "does not go with data.train: the files are the splits. Leave data.columns.split out, or give data.path"


@check_train("data.fractions", "data.columns.split", "data.train")
def fractions_are_used(c: TrainConfig) -> str | None:
    """Fractions are given only where nothing else gives the splits."""
    given = "data.columns.split" if c.data.columns.split is not None else "data.train"
    if c.data.fractions == FractionsConfig() or (c.data.columns.split is None and c.data.train is None):
        return None
    return f"changes nothing, because {given} says the splits. Leave one of them out"


@check_train("data.fractions")
def fractions_add_up(c: TrainConfig) -> str | None:
    """The shares add up to 1."""
    f = c.data.fractions
    total = f.train + f.val + f.test
    if math.isclose(total, 1.0, abs_tol=1e-6):
        return None
    return f"train {f.train} + val {f.val} + test {f.test} = {total:g}, which must be 1"


@check_train("data.fold", "data.folds")
def fold_of_folds(c: TrainConfig) -> str | None:
    """A fold is one of the folds."""
    fold, folds = c.data.fold, c.data.folds
    if folds is None:
        return None if fold is None else f"needs data.folds: type data.folds=5 data.fold={fold}"
    if fold is None:
        every = ",".join(map(str, range(folds)))
        return f"{MUST} beside data.folds={folds}: the fold that is held out. Type data.fold=0, or -m data.fold={every}"
    if fold < folds:
        return None
    return f"{fold} is not one of data.folds={folds}, which are 0 to {folds - 1}"


@check_train("data.folds", "data.val", "data.overfit")
def folds_deal_the_rows(c: TrainConfig) -> str | None:
    """Nothing else says which rows are held out."""
    if c.data.folds is None:
        return None
    if c.data.val is not None:
        return "does not go with data.val: a fold of data.train is held out. Leave one of them out"
    return "does not go with data.overfit: nothing is held out there" if c.data.overfit is not None else None


@check_train("data.overfit", "data.limit")
def overfit_or_limit(c: TrainConfig) -> str | None:
    """One number says how many rows there are."""
    both = c.data.overfit is not None and c.data.limit is not None
    return "does not go with data.limit: it is the number of rows itself. Leave one of them out" if both else None
