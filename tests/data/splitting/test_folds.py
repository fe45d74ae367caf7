"""Cross-validation: every row is held out once, groups stay together, labels are spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmft.config.schema.data import ColumnsConfig, DataConfig, FractionsConfig
from mmft.data.splitting.splits import load_splits
from mmft.errors import UserError

Write = Callable[..., Path]
FOLDS = 5


def made(rows: int = 200, **more: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [
        {"text": f"title {at}", "id": f"r{at}", "label": f"c{at % 3}"} | {key: value(at) for key, value in more.items()}
        for at in range(rows)
    ]


def folded(table: Path, fold: int, seed: int = 0, **keys: Any) -> dict[str, set[str]]:
    columns = ColumnsConfig(text="text", label="label", id="id", **keys.pop("columns", {}))
    sources = {"path": str(table)} | keys
    config = DataConfig(**sources, columns=columns, folds=FOLDS, fold=fold)
    splits = load_splits(config, seed)
    return {name: {split.table.id(row) for row in split.rows.tolist()} for name, split in splits.items()}


def test_each_row_is_tested_once_and_labels_are_spread(write: Write) -> None:
    path = write("t.csv", made())
    runs = [folded(path, fold) for fold in range(FOLDS)]
    assert Counter(row for run in runs for row in run["test"]) == dict.fromkeys((f"r{at}" for at in range(200)), 1)
    for run in runs:
        assert sum(map(len, run.values())) == 200
        assert len(set.union(*run.values())) == 200
        assert len(run["test"]) == pytest.approx(40, abs=3)
        assert len(run["val"]) == pytest.approx(160 / 9, abs=3)
        assert Counter(int(row[1:]) % 3 for row in run["test"]) == pytest.approx({0: 13, 1: 13, 2: 13}, abs=1.5)
    assert runs[0] == folded(path, 0)
    assert runs[0] != folded(path, 0, seed=1)


def test_a_group_is_in_one_fold(write: Write) -> None:
    path = write("t.csv", made(group=lambda at: f"g{at // 7}"))
    for fold in range(FOLDS):
        run = folded(path, fold, columns={"group": "group"})
        groups = [{int(row[1:]) // 7 for row in rows} for rows in run.values()]
        assert sum(map(len, groups)) == len(set.union(*groups))


def test_a_test_split_stays_and_folds_validate(write: Write) -> None:
    path = write("t.csv", made(split=lambda at: ("train", "train", "train", "val", "test")[at % 5]))
    runs = [folded(path, fold, columns={"split": "split"}) for fold in range(FOLDS)]
    tested = {f"r{at}" for at in range(4, 200, 5)}
    assert all(run["test"] == tested for run in runs)
    assert Counter(row for run in runs for row in run["val"]) == {
        f"r{at}": 1 for at in range(200) if f"r{at}" not in tested
    }
    files = [
        folded(path, fold, path=None, train=str(write("a.csv", made(100))), test=str(write("b.csv", made(20))))
        for fold in range(FOLDS)
    ]
    assert Counter(row for run in files for row in run["val"]) == {f"r{at}": 1 for at in range(100)}
    assert all(len(run["test"]) == 20 for run in files)


def test_a_split_column_without_test_rows_is_dealt_too(write: Write) -> None:
    path = write("t.csv", made(split=lambda at: "val" if at % 5 == 0 else "train"))
    runs = [folded(path, fold, columns={"split": "split"}) for fold in range(FOLDS)]
    assert sum(len(run["test"]) for run in runs) == 200


def test_no_validation_where_none_is_wanted(write: Write) -> None:
    run = folded(write("t.csv", made()), 0, fractions=FractionsConfig(train=0.9, val=0.0, test=0.1))
    assert run.keys() == {"train", "test"}


def test_too_few_rows(write: Write) -> None:
    with pytest.raises(UserError, match=r"data.fold=\d: 3 rows of .* are too few for data.folds=5"):
        [folded(write("t.csv", made(3)), fold) for fold in range(FOLDS)]
