"""Splits by column, by files, by fractions; limits; what test and predict read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmft.config.schema.data import ColumnsConfig, DataConfig, FractionsConfig
from mmft.data.splitting.names import splits_to_test, table_of
from mmft.data.splitting.splits import Split, groups_of_earlier_splits, load_rows, load_splits, load_tests
from mmft.errors import UserError

Write = Callable[..., Path]


def made(rows: int = 300, labels: int = 3, group_size: int = 0) -> list[dict[str, Any]]:
    return [
        {"text": f"title {at}", "id": f"r{at}", "label": f"c{at % labels}"}
        | ({"group": f"g{at // group_size}"} if group_size else {})
        for at in range(rows)
    ]


def by_id(splits: dict[str, Split]) -> dict[str, str]:
    return {split.table.id(row): name for name, split in splits.items() for row in split.rows.tolist()}


def fractions(path: Path, seed: int = 0, shares: tuple[float, ...] = (0.8, 0.1, 0.1), **columns: Any) -> dict[str, str]:
    train, val, test = shares
    config = DataConfig(
        path=str(path),
        columns=ColumnsConfig(**{"text": "text", "label": "label", "id": "id"} | columns),
        fractions=FractionsConfig(train=train, val=val, test=test),
    )
    return by_id(load_splits(config, seed))


def test_by_column(config: DataConfig) -> None:
    splits = load_splits(config, 0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 23, "val": 7, "test": 7}
    assert splits["val"].rows.tolist() == [3, 8, 13, 18, 23, 28, 33]


def test_fractions_are_exact_stratified_and_depend_on_the_seed(write: Write) -> None:
    path = write("t.csv", made())
    names = fractions(path)
    assert Counter(names.values()) == pytest.approx({"train": 240, "val": 30, "test": 30}, abs=3)
    for label in range(3):
        of_label = Counter(name for at, name in ((int(i[1:]), n) for i, n in names.items()) if at % 3 == label)
        assert of_label == pytest.approx({"train": 80, "val": 10, "test": 10}, abs=1)
    assert names != fractions(path, seed=1)
    assert names == fractions(path)


def test_fractions_do_not_depend_on_the_order_of_rows(write: Write) -> None:
    for group_size in (0, 4):
        rows = made(group_size=group_size)
        columns = {"group": "group"} if group_size else {}
        names = fractions(write("t.csv", rows), **columns)
        shuffled = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]
        assert names == fractions(write("t.csv", shuffled), **columns)


def test_more_rows_move_few_of_the_old_ones(write: Write) -> None:
    names = fractions(write("t.csv", made(300)))
    more = fractions(write("t.csv", made(330)))
    assert sum(more[i] != name for i, name in names.items()) < 15


def test_no_group_is_on_both_sides(write: Write) -> None:
    rows = made(400, group_size=7)
    names = fractions(write("t.csv", rows), group="group")
    assert {
        len({names[row["id"]] for row in rows if row["group"] == group}) for group in {r["group"] for r in rows}
    } == {1}
    assert Counter(names.values())["train"] == pytest.approx(320, abs=21)


def test_every_class_is_in_training_and_small_classes_reach_every_split(write: Write) -> None:
    rows = made(500, labels=100)
    names = fractions(write("t.csv", rows))
    assert {row["label"] for row in rows if names[row["id"]] == "train"} == {f"c{at}" for at in range(100)}
    assert min(Counter(names.values()).values()) > 20


def test_labels_that_are_no_classes_do_not_stratify(write: Write) -> None:
    rows = [row | {"label": at * 0.1} for at, row in enumerate(made(200))]
    assert Counter(fractions(write("t.csv", rows)).values()) == {"train": 160, "val": 20, "test": 20}


def test_without_ids_the_row_number_is_the_key(write: Write) -> None:
    names = fractions(write("t.csv", made(100)), id=None)
    assert set(names) == {str(at) for at in range(100)}


def test_limits_take_a_seeded_part_that_does_not_depend_on_order(config: DataConfig) -> None:
    full = by_id(load_splits(config, 0))
    config.limit = 5
    splits = load_splits(config, 0)
    assert {len(split) for split in splits.values()} == {5}
    assert (np.diff(splits["train"].rows) > 0).all()
    assert by_id(splits).items() <= full.items()
    assert by_id(splits) != by_id(load_splits(config, 1))


def test_by_files_ids_tell_the_file(write: Write, tmp_path: Path) -> None:
    files = {name: str(write(f"{name}.csv", made(4))) for name in ("train", "val")}
    config = DataConfig(**files, columns=ColumnsConfig(text="text", label="label"))
    splits = load_splits(config, 0)
    assert [splits[name].table.id(2) for name in splits] == ["train:2", "val:2"]
    config.val, config.test = str(tmp_path / "no.csv"), str(write("t.csv", "text\n"))
    with pytest.raises(UserError) as caught:
        load_splits(config, 0)
    assert [message.split("=")[0] for message in caught.value.messages] == ["data.val", "data.columns.label"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "data.path and data.train are both null"),
    ({"val": "T"}, "data.path and data.train are both null"),
    ({"path": "T", "train": "T"}, "data.path and data.train are both given"),
    ({"train": "T", "columns": {"split": "label"}}, "data.columns.split=null"),
    ({"path": "T", "fractions": (0.5, 0.1, 0.1)}, "add up to 0.7, not to 1"),
    ({"path": "T", "columns": {"id": "label"}}, "3 ids of .* occur twice"),
    ({"path": "S"}, "data.fractions.(val|test): 4 rows"),
    ({"path": "W", "columns": {"weight": "w"}}, "data.columns.weight=w: all 24 training rows have weight 0"),
    ({"path": "V", "columns": {"split": "split"}}, "no row of .* is in 'train'; rows by split: val 2"),
]


@pytest.mark.parametrize(("keys", "message"), WRONG)
def test_splits_that_cannot_be_are_the_users_error(write: Write, keys: dict[str, Any], message: str) -> None:
    files = {
        "T": write("t.csv", made(30)),
        "S": write("s.csv", made(4, labels=1)),
        "W": write("w.csv", [row | {"w": "0"} for row in made(30)]),
        "V": write("v.csv", [row | {"split": "val"} for row in made(2)]),
    }
    keys = {key: str(files[value]) if isinstance(value, str) else value for key, value in keys.items()}
    keys["columns"] = ColumnsConfig(**{"text": "text", "label": "label"} | keys.get("columns", {}))
    shares = keys.pop("fractions", (0.8, 0.1, 0.1))
    keys["fractions"] = FractionsConfig(train=shares[0], val=shares[1], test=shares[2])
    with pytest.raises(UserError, match=message):
        load_splits(DataConfig(**keys), 0)


def test_test_tables_are_splits_of_their_own(write: Write) -> None:
    rows, columns = made(6), ColumnsConfig(text="text", label="label", group="group")
    photo = [row | {"group": f"g{at}"} for at, row in enumerate(rows[:4])]
    config = DataConfig(
        train=str(write("t.csv", [row | {"group": "g0"} for row in rows])),
        test={
            "photo": str(write("p.csv", photo)),
            "all": [str(write("s.csv", photo[1:3])), str(write("r.csv", photo))],
        },
        columns=columns,
    )
    splits = load_splits(config, 0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "test/photo": 4, "test/all": 6}
    assert [splits[name].table.id(1) for name in splits] == ["train:1", "test/photo:1", "test/all:1"]
    assert splits_to_test(splits) == ["test/photo", "test/all"]
    assert splits_to_test(["train", "val", "test"]) == ["test"]
    assert [table_of(name) for name in ("test/photo", "test")] == ["photo", ""]
    # Groups that test tables share do not leak.
    leaks = [("test/photo", 0, "train"), ("test/all", 2, "train")]
    assert list(groups_of_earlier_splits(splits)) == leaks


def test_a_held_out_fold_is_validated_beside_test_tables(write: Write) -> None:
    config = DataConfig(
        train=str(write("t.csv", made(30))),
        test={"photo": str(write("p.csv", made(3)))},
        columns=ColumnsConfig(text="text", label="label"),
        folds=5,
        fold=1,
    )
    assert {name: len(split) for name, split in load_splits(config, 0).items()} == {
        "train": 24,
        "val": 6,
        "test/photo": 3,
    }


def test_tables_to_test_are_taken_whole(config: DataConfig, write: Write) -> None:
    config.columns.weight = "weight"
    row = {"image": "", "text": "a", "label": "disc", "id": "A", "split": "nowhere", "weight": "1"}
    config.test = {"photo": str(write("p.csv", [row, row | {"split": "val", "weight": "-1"}]))}
    [photo] = load_tests(config).values()
    assert (len(photo), list(photo.table.bad)) == (2, [1])
    config.test = str(write("lone.csv", [{"image": "", "text": "a", "label": "disc"}]))
    assert list(load_tests(config, id_is_typed=False)) == ["test"]
    config.test = {name: str(write(f"{name}.csv", [{"image": "", "text": "a"}])) for name in ("x", "y")}
    with pytest.raises(UserError) as wrong:
        load_tests(config, id_is_typed=False)
    assert [f"data.test.{name}=" in message for name, message in zip("xy", wrong.value.messages, strict=True)] == [
        True
    ] * 2


def test_test_takes_its_split_or_everything(config: DataConfig, write: Write) -> None:
    assert len(load_rows(config, "test")) == 7
    config.path = str(write("new.csv", [{"image": "", "text": "a", "label": "disc", "id": "A"}]))
    assert len(load_rows(config, "test")) == 1
    config.path = str(write("new.csv", [{"image": "", "text": "a", "label": "disc", "id": "A", "split": "val"}]))
    with pytest.raises(UserError, match="no row of .* is in 'test'; rows by split: val 1"):
        load_rows(config, "test")
    config.path = str(write("new.csv", [{"image": "", "text": "a", "id": "A"}]))
    with pytest.raises(UserError, match=r"data\.columns\.label=label"):
        load_rows(config, "test")


def test_predict_takes_all_rows_and_looks_at_inputs_only(config: DataConfig, write: Write) -> None:
    assert len(load_rows(config, None)) == 37
    config.columns.weight = "weight"
    config.path = str(write("new.csv", [{"image": "", "text": "a", "id": "A", "weight": "-3", "split": "none"}]))
    split = load_rows(config, None)
    assert (len(split), split.table.bad) == (1, {})
    config.path = None
    with pytest.raises(UserError, match="data.path is null"):
        load_rows(config, None)
