"""Batches made many at once are those of a loader that makes one after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stored_batches import same_batches, stored_data

from mmft.batch import Batch
from mmft.data import batches_ahead
from mmft.data.batches_ahead import BatchesAhead
from mmft.data.datamodule import VisionLanguageData
from mmft.data.loading import make_loader
from mmft.data.order import epoch_order

SIZES = (7, 7, 0, 3, 12, 1)


def _both(data: VisionLanguageData) -> tuple[list[Batch], list[Batch]]:
    rows, collate = data.datasets["train"], data._collates["train"]
    order = epoch_order(len(rows), 0, 0).tolist()
    batches = [order[sum(SIZES[:at]) : sum(SIZES[: at + 1])] for at in range(len(SIZES))]
    ahead = BatchesAhead(rows, batches, collate)
    assert len(ahead) == len(SIZES)
    return list(ahead), list(make_loader(rows, batches, collate))


@pytest.mark.parametrize("bytes_at_once", [1, 5000, 8 * 2**20])
def test_rows_are_the_same(
    shapes_overrides: list[str], tmp_path: Path, bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_ahead, "_AT_ONCE", bytes_at_once)
    made, wanted = _both(stored_data(shapes_overrides, tmp_path / "store", ("image", "text")))
    at_once = 0
    for one, other in zip(made, wanted, strict=True):
        assert len(one) == len(other)
        if not len(one):
            continue
        at_once += one.input_ids is None
        same_batches(one, replace(other, input_ids=one.input_ids, attention_mask=one.attention_mask))
    assert (at_once > 0) == (bytes_at_once > 1)


def test_a_text_that_is_not_stored_keeps_its_tokens(shapes_overrides: list[str], tmp_path: Path) -> None:
    made, wanted = _both(stored_data(shapes_overrides, tmp_path / "store", ("image",)))
    assert made[0].input_ids is not None
    assert made[0].text_features is None
    for one, other in zip(made, wanted, strict=True):
        if len(one):
            same_batches(one, replace(other, input_ids=one.input_ids, attention_mask=one.attention_mask))


def test_batches_with_bad_rows_are_made_one_by_one(
    shapes_overrides: list[str], untidy_table: Path, tmp_path: Path
) -> None:
    typed = [*shapes_overrides, f"data.path={untidy_table}", "data.columns.weight=weight", "data.limit=null"]
    typed += ["data.columns.split=null", "data.fractions={train:0.8,val:0.1,test:0.1}", "data.max_bad_fraction=1"]
    made, wanted = _both(stored_data(typed, tmp_path / "store", ("image", "text")))
    assert any(one.bad for one in made)
    for one, other in zip(made, wanted, strict=True):
        if len(one):
            same_batches(one, other)
            assert one.input_ids is not None
            assert torch.equal(one.row, other.row)
