"""Near duplicates among made-up features: which pairs are told of, and as what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from mmft.config.schema.data import ColumnsConfig
from mmft.data.splitting.splits import whole
from mmft.data.table import Table
from mmft.reports.audit.feature_rows import FeatureRows, Modality
from mmft.reports.audit.near_duplicates import near_duplicates

COLUMNS = ColumnsConfig(image="image", text="text", label="label")
LEAST = {"image": 0.9, "text": 0.9}
Row = tuple[int | None, int | None, str]
"""What the image and the text are, and the label. Tens are alike: 10 and 12 are near duplicates."""


def modality(kinds: list[int | None]) -> Modality:
    """Directions of the tens, with a small share of the ones."""
    features = torch.zeros(len(kinds), 40)
    for at, kind in enumerate(kinds):
        if kind is not None:
            features[at, kind // 10], features[at, 20 + kind % 10] = 1.0, 0.2
    content = torch.tensor([-1 if kind is None else kind for kind in kinds])
    return Modality(functional.normalize(features, dim=1), content)


def found(*tables: tuple[str, list[Row]]) -> list[tuple[str, str, int, str, int | None]]:
    """(kind, split, row, other split, other row)."""
    splits = {}
    for name, rows in tables:
        made: list[dict[str, Any]] = [
            {"image": None if image is None else f"{image}.png", "text": text and str(text), "label": label}
            for image, text, label in rows
        ]
        splits[name] = whole(Table.from_rows(made, COLUMNS, Path()))
    every = [row for _, rows in tables for row in rows]
    rows = FeatureRows(splits, {"image": modality([r[0] for r in every]), "text": modality([r[1] for r in every])})
    labels = [{"": frozenset({label})} if label else {} for _, _, label in every]
    near = near_duplicates(rows, LEAST, labels)
    assert [one.score for one in near] == sorted((one.score for one in near), reverse=True)
    return [(one.kind, one.split, one.row, one.other_split, one.other_row) for one in near]


def test_alike_images_within_and_across_splits() -> None:
    train: list[Row] = [(10, 10, "a"), (20, 20, "a"), (12, 30, "a"), (22, 40, "b")]
    assert found(("train", train), ("test", [(11, 50, "a"), (90, 60, "a"), (24, 70, "b")])) == [
        ("near duplicate", "train", 2, "train", 0),
        ("near label conflict", "train", 3, "train", 1),
        ("near leak", "test", 0, "train", 0),
        ("near label conflict", "test", 2, "train", 1),
        ("near leak", "test", 2, "train", 1),
    ]


def test_the_same_content_is_found_without_features() -> None:
    assert not found(("train", [(10, 20, "a"), (10, 30, "b")]), ("test", [(10, 20, "b")]))


def test_alike_texts_of_different_images() -> None:
    rows: list[Row] = [(10, 10, "a"), (20, 12, "b")]
    assert not found(("train", rows))  # many images may have alike texts
    assert found(("train", rows[:1]), ("val", rows[1:])) == [("near leak", "val", 0, "train", 0)]
    bare: list[Row] = [(None, 10, "a"), (None, 12, "b"), (None, 14, "b")]
    assert found(("train", bare)) == [
        ("near label conflict", "train", 1, "train", 0),
        ("near label conflict", "train", 2, "train", 0),
        ("near duplicate", "train", 2, "train", 1),
    ]


def test_copies_of_a_leaking_row_are_leaks_too() -> None:
    assert found(("train", [(10, None, "")]), ("val", [(12, None, ""), (12, None, "")])) == [
        ("near leak", "val", 0, "train", 0),
        ("near leak", "val", 1, "train", 0),
    ]


def test_test_tables_are_not_compared_with_one_another() -> None:
    tables: list[tuple[str, list[Row]]] = [("train", [(90, None, "a")]), ("test/a", [(10, None, "a")])]
    assert not found(*tables, ("test/b", [(12, None, "a")]))
    assert found(*tables, ("val", [(12, None, "a")])) == [("near leak", "val", 0, "test/a", 0)]


def test_unlabelled_rows_conflict_with_nothing() -> None:
    assert found(("train", [(10, None, "a"), (12, None, "")])) == [("near duplicate", "train", 1, "train", 0)]
