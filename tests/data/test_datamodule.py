"""From splits to batches: data set, targets, loaders, the same for any number of workers and ranks."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from mmft.batch import BadRow, Batch
from mmft.config.schema.data import ColumnsConfig, DataConfig
from mmft.data.datamodule import VisionLanguageData
from mmft.data.loading import make_batches, make_dataset
from mmft.data.order import BatchSizes, StepPlan
from mmft.data.splitting.splits import load_rows, load_splits
from mmft.data.targets import Encode
from mmft.errors import UserError

CLASSES = ["disc", "cross"]


def encode(label: Any) -> int:
    if label not in CLASSES:
        raise ValueError(f"label {label!r} was not in training" if label is not None else "no label")
    return CLASSES.index(label)


def module(config: DataConfig, tokenizer: PreTrainedTokenizerFast, encode: Any = encode) -> VisionLanguageData:
    splits = load_splits(config, 0)
    plan = StepPlan(len(splits["train"]), BatchSizes({0: config.batch_size}), max_epochs=2)
    return VisionLanguageData(
        splits, config, tokenizer=tokenizer, max_length=5, image_size=16, encode=Encode(encode), seed=0, plan=plan
    )


def equal(left: Iterable[Batch], right: Iterable[Batch]) -> bool:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    pairs = zip(left, right, strict=True)
    return all(same(getattr(a, f.name), getattr(b, f.name)) for a, b in pairs for f in fields(Batch))


def loaders(data: VisionLanguageData) -> list[Any]:
    return [data.train_dataloader(), data.val_dataloader(), data.evaluation_loader("test")]


def stop(loader: Any) -> None:
    """What the Trainer's loops do in the end, see `make_loader`."""
    if loader.num_workers and loader._iterator is not None:
        loader._iterator._shutdown_workers()


def test_training_batches_hold_every_good_row_once(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(config, tokenizer)
    assert data.rows == {"train": 23, "val": 7, "test": 7}
    (gone,) = data.table_bad  # its file does not exist
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    rows = torch.cat([batch.row for batch in batches]).tolist()
    assert sorted([*rows, 4]) == data.datasets["train"].split.rows.tolist()
    (bad,) = [bad for batch in batches for bad in batch.bad]
    assert bad == gone
    assert bad[:3] == (4, "r4", "image")
    assert bad.reason.startswith("no such file: /")
    for batch in batches:
        assert batch.target is not None
        assert batch.target.tolist() == [row % 2 for row in batch.row.tolist()]
        assert batch.image_present.tolist() == [row != 5 for row in batch.row.tolist()]
        assert batch.text_present.tolist() == [row != 6 for row in batch.row.tolist()]


def test_cut_texts_are_counted(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    assert module(config, tokenizer).texts_cut == {"train": 22, "val": 7, "test": 7}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(config: DataConfig, tokenizer: PreTrainedTokenizerFast, workers: int) -> None:
    alone = module(config, tokenizer)
    helped = module(replace(config, num_workers=workers), tokenizer)
    assert helped.train_dataloader().num_workers == workers != alone.train_dataloader().num_workers
    for left, right in zip(*(loaders(data) for data in (alone, helped)), strict=True):
        for _ in range(2):
            assert equal(left, right)
        stop(right)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_draws_nothing_from_the_global_generator(
    config: DataConfig, tokenizer: PreTrainedTokenizerFast, workers: int
) -> None:
    config.num_workers = workers
    data = module(config, tokenizer)
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        list(loader)
        stop(loader)
    assert torch.equal(before, torch.get_rng_state())


def test_a_missing_split_gives_no_batches(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    splits = {"train": load_splits(config, 0)["train"]}
    plan = StepPlan(22, BatchSizes({0: 8}), max_epochs=1)
    data = VisionLanguageData(
        splits, config, tokenizer=tokenizer, max_length=5, image_size=16, encode=Encode(encode), seed=0, plan=plan
    )
    assert data.val_dataloader() == data.evaluation_loader("test") == []


def test_a_rank_for_which_no_batch_is_left_gets_an_empty_one(
    config: DataConfig, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module(config, tokenizer)  # 7 rows of val, a bad one among them, in batches of 8
    ranks = []
    for rank in range(3):
        monkeypatch.setattr(data, "_place", lambda rank=rank: (rank, 3))
        ranks.append([len(batch) for batch in data.val_dataloader()])
    assert ranks == [[6], [0], [0]]


def test_labels_that_cannot_be_encoded_make_bad_rows(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    def only_disc(label: Any) -> int:
        if label != "disc":
            raise ValueError(f"label {label!r} was not in training")
        return 0

    data = module(config, tokenizer, only_disc)
    train = data.datasets["train"].split.rows
    bad = [row.row for row in data.table_bad]
    assert sorted(bad) == [row for row in range(37) if row % 2 or row == 4]
    assert data.table_bad[0] == BadRow(1, "r1", "label", "label 'cross' was not in training")
    batches = list(data.train_dataloader())
    assert sum(len(batch) for batch in batches) == sum(row % 2 == 0 for row in train.tolist()) - 1


def test_no_usable_label_at_all_is_the_users_error(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    def nothing(_: Any) -> int:
        raise ValueError("unseen")

    with pytest.raises(UserError) as caught:
        module(config, tokenizer, nothing)
    assert len(caught.value.messages) == 3
    assert caught.value.messages[0] == "data.columns.label=label: no row of train is usable: unseen"


def test_a_column_of_lists_of_captions_is_named(
    config: DataConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Any
) -> None:
    """And not the labels, which a task of pairs need not have."""
    rows = [{"captions": ["a disc", "red"], "split": name} for name in ("train", "val", "test")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config.path = str(tmp_path / "rows.jsonl")
    config.columns = ColumnsConfig(text="captions", split="split")
    with pytest.raises(UserError) as caught:
        module(config, tokenizer, lambda _: 0)
    assert caught.value.messages[0] == (
        "data.columns.text=captions: no row of train is usable: a list where a text is needed; several captions of an "
        "image are several rows, which data.reading.explode=true makes of them"
    )
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    config.path = str(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="text=captions: .* holds list<.*, not text; several captions of an image"):
        module(config, tokenizer, lambda _: 0)


def test_rows_without_a_known_split_count_as_bad(
    config: DataConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Any
) -> None:
    with (tmp_path / "rows.csv").open("a") as file:
        file.write("0.png,a,disc,r37,elsewhere\n0.png,a,disc\n")
    data = module(config, tokenizer)
    assert [(bad.row, bad.column) for bad in data.table_bad] == [(37, "split"), (38, ""), (4, "image")]
    assert data.rows_read == sum(data.rows.values()) + 2


def test_predicting_gives_every_row_in_order(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    split = load_rows(config, None)
    arguments = {"tokenizer": tokenizer, "max_length": 5, "image_size": 16}
    batches = list(make_batches(split, config, **arguments))
    assert [batch.target for batch in batches] == [None] * 5
    rows = [row for batch in batches for row in [*batch.row.tolist(), *(bad.row for bad in batch.bad)]]
    assert sorted(rows) == list(range(37))
    good = torch.cat([batch.row for batch in batches])
    assert (good.diff() > 0).all()
    alone = next(iter(make_batches(split, config, **arguments, batch_size=1)))
    assert batches[0].pixel_values is not None
    assert alone.pixel_values is not None
    assert torch.equal(batches[0].pixel_values[0], alone.pixel_values[0])


def test_data_sets_can_be_sent_to_spawned_workers(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = make_dataset(
        load_splits(config, 0)["train"], config, tokenizer=tokenizer, max_length=5, image_size=16, encode=Encode(encode)
    )
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[0].pixel_values, dataset[0].pixel_values)
    assert again[3].row == dataset[3].row
