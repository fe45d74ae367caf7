"""Batches made at once are those that are made row by row."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_batches import same_batches, stored_data

from mmft.batch import Sample
from mmft.data.collate import Collate
from mmft.data.gathered import Gathered
from mmft.data.text import Tokens


@pytest.mark.parametrize("modalities", [("image", "text"), ("image",), ("text",)])
@pytest.mark.parametrize("own", [[], ["data.columns.text=null"], ["data.columns.image=null"]])
def test_batches_are_the_same(
    shapes_overrides: list[str], untidy_table: Path, tmp_path: Path, own: list[str], modalities: tuple[str, ...]
) -> None:
    lacks = {"image", "text"} & {override.split("=")[0].rsplit(".", 1)[1] for override in own}
    kept = tuple(modality for modality in modalities if modality not in lacks)
    typed = [*shapes_overrides, f"data.path={untidy_table}", "data.columns.weight=weight", "data.limit=null", *own]
    typed += ["data.columns.split=null", "data.fractions={train:0.8,val:0.1,test:0.1}", "data.max_bad_fraction=1"]
    data = stored_data(typed, tmp_path / "store", kept)
    rows, collate = data.datasets["train"], data._collates["train"]
    draw, gathered = random.Random(0), 0
    for count in (0, 1, 2, 7, 16, len(rows)):
        for _ in range(4):
            positions = draw.sample(range(len(rows)), count)
            at_once = rows.__getitems__(positions)
            gathered += isinstance(at_once, Gathered)
            if count:
                same_batches(collate(at_once), collate([rows[at] for at in positions]))
    assert (gathered > 0) == bool(kept)


def test_a_damaged_row_is_computed(shapes_overrides: list[str], tmp_path: Path) -> None:
    data = stored_data(shapes_overrides, tmp_path / "store", ("image", "text"))
    rows = data.datasets["train"]
    assert isinstance(rows.__getitems__([0, 1, 2]), Gathered)
    for path in (tmp_path / "store").glob("*/*.shard"):
        whole = bytearray(path.read_bytes())
        whole[-200] ^= 1
        path.write_bytes(whole)
    fresh = stored_data(shapes_overrides, tmp_path / "store", ("image", "text")).datasets["train"]
    found = [isinstance(fresh.__getitems__([at]), Gathered) for at in range(len(fresh))]
    assert found.count(False) == 1


def test_padding_of_all_targets_is_cut_alike() -> None:
    """Answers of a language model are padded to the longest of a split; a batch needs no more than its own longest."""
    rows = Gathered(
        row=torch.arange(2),
        weight=torch.ones(2),
        target=torch.tensor([[5, 6, -1, -1], [7, -1, -1, -1]]),
        identity=None,
        image=np.array([-1, -1]),
        text=np.array([-1, -1]),
        tokens=Tokens(np.zeros(0, np.int32), np.zeros(3, np.int64), 0),
        place=np.arange(2),
        references=(),
        bad=(),
    )
    collate = Collate(0, np.array([1], np.int32), target=rows.target, padded_targets=True)
    assert rows.target is not None
    samples = [Sample(at, target=target) for at, target in enumerate(rows.target)]
    same_batches(collate(rows), collate(samples))
    assert collate(rows).target.tolist() == [[5, 6], [7, -1]]  # type: ignore[union-attr]
