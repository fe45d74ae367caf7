"""Batches made at once are those that are made row by row."""

from __future__ import annotations

import csv
import random
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from built import built

from mmft import build
from mmft.batch import Batch, Features, Sample
from mmft.data.collate import Collate
from mmft.data.datamodule import VisionLanguageData
from mmft.data.gathered import Gathered
from mmft.data.text import Tokens
from mmft.models.precision import autocast
from mmft.training.frozen_cache import FrozenCache, frozen_part


def _data(typed: list[str], store: Path, modalities: tuple[str, ...]) -> VisionLanguageData:
    config, model, data = built([*typed, f"paths.cache={store}", "cache=always"])
    rows = data.datasets["train"]
    cache = FrozenCache(
        build.build_store(config), "always", "32-true", lambda: autocast(torch.device("cpu"), "32-true"), config.data
    )
    for modality in modalities:
        part = frozen_part(model, f"{modality}_encoder", None, exact=True)
        assert part is not None
        rows.stored[modality] = cache.filled(part, {"train": (rows, 2)})["train"]
    return data


@pytest.fixture
def table(shapes: Any, tmp_path: Path) -> Path:
    """Rows that lack an image or a text, one with a broken image, one without a label; with weights."""
    folder = tmp_path / "rows"
    shutil.copytree(shapes.folder, folder, ignore=shutil.ignore_patterns("*encoder*"))
    with (folder / "rows.csv").open() as stream:
        rows = [dict(row) for row in csv.DictReader(stream) if row["split"] == "train"][:40]
    for at, row in enumerate(rows):
        row["weight"] = str(1 + at % 3)
    rows[3]["image"] = rows[8]["image"] = rows[5]["text"] = rows[8]["text"] = ""
    rows[11]["label"] = ""
    (folder / rows[13]["image"]).write_bytes(b"no image")
    rows[17]["image"] = "lost.png"
    path = folder / "some.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _same(one: Batch, other: Batch) -> None:
    for f in fields(Batch):
        a, b = getattr(one, f.name), getattr(other, f.name)
        if isinstance(a, Features):
            a, b = (a.there, *a.values), (b.there, *b.values)
        else:
            a, b = (a,), (b,)
        for left, right in zip(a, b, strict=True):
            if isinstance(left, torch.Tensor):
                assert left.dtype == right.dtype, f.name
                assert torch.equal(left, right), f.name
            else:
                assert left == right, f.name


@pytest.mark.parametrize("modalities", [("image", "text"), ("image",), ("text",)])
@pytest.mark.parametrize("own", [[], ["data.columns.text=null"], ["data.columns.image=null"]])
def test_batches_are_the_same(
    shapes_overrides: list[str], table: Path, tmp_path: Path, own: list[str], modalities: tuple[str, ...]
) -> None:
    lacks = {"image", "text"} & {override.split("=")[0].rsplit(".", 1)[1] for override in own}
    kept = tuple(modality for modality in modalities if modality not in lacks)
    typed = [*shapes_overrides, f"data.path={table}", "data.columns.weight=weight", "data.limit=null", *own]
    typed += ["data.columns.split=null", "data.fractions={train:0.8,val:0.1,test:0.1}", "data.max_bad_fraction=1"]
    data = _data(typed, tmp_path / "store", kept)
    rows, collate = data.datasets["train"], data._collates["train"]
    draw, gathered = random.Random(0), 0
    for count in (0, 1, 2, 7, 16, len(rows)):
        for _ in range(4):
            positions = draw.sample(range(len(rows)), count)
            at_once = rows.__getitems__(positions)
            gathered += isinstance(at_once, Gathered)
            if count:
                _same(collate(at_once), collate([rows[at] for at in positions]))
    assert (gathered > 0) == bool(kept)


def test_a_damaged_row_is_computed(shapes_overrides: list[str], tmp_path: Path) -> None:
    data = _data(shapes_overrides, tmp_path / "store", ("image", "text"))
    rows = data.datasets["train"]
    assert isinstance(rows.__getitems__([0, 1, 2]), Gathered)
    for path in (tmp_path / "store").glob("*/*.shard"):
        whole = bytearray(path.read_bytes())
        whole[-200] ^= 1
        path.write_bytes(whole)
    fresh = _data(shapes_overrides, tmp_path / "store", ("image", "text")).datasets["train"]
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
    _same(collate(rows), collate(samples))
    assert collate(rows).target.tolist() == [[5, 6], [7, -1]]  # type: ignore[union-attr]
