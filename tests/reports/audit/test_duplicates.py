"""Rows that repeat others, inside a split and from split to split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from drawings import drawing, encoded

from mmft.config.schema.audit import AuditConfig
from mmft.config.schema.data import ColumnsConfig, DataConfig
from mmft.data.splitting.names import SPLITS
from mmft.data.splitting.splits import Split, whole
from mmft.data.table import Table
from mmft.reports.audit.rows import RowAudit

COLUMNS = ColumnsConfig(image="p", text="t", label="y", id="i", split="s", group="g")


def found(rows: list[tuple[Any, ...]]) -> list[tuple[str, str, str, str | None]]:
    """(kind, split, id, id of the other row) of everything that is found in rows of (split, image, text, label)."""
    made = [
        {"s": row[0], "p": row[1], "t": row[2], "y": row[3], "g": row[4] if len(row) > 4 else None, "i": f"r{at}"}
        for at, row in enumerate(rows)
    ]
    table = Table.from_rows(made, COLUMNS, Path())
    names = np.array([str(name) for name in table.splits() or []])
    splits = {name: Split(table, np.flatnonzero(names == name)) for name in SPLITS if name in names}
    audit = RowAudit(splits, DataConfig(), AuditConfig(), 96, None)
    audit.images(lambda _: None)
    return [(f.kind, f.split, f.id, f.other_id or None) for f in audit.findings(None, 0)]


def found_in_tables(*tables: tuple[str, list[tuple[Any, ...]]]) -> list[tuple[str, str, int, str, int | None]]:
    """(kind, split, row, other split, other row) of what is found in splits of (image, text, label), one table each."""
    columns = ColumnsConfig(image="p", text="t", label="y", group="g")
    splits = {
        name: whole(Table.from_rows([dict(zip("ptyg", row, strict=True)) for row in rows], columns, Path()))
        for name, rows in tables
    }
    audit = RowAudit(splits, DataConfig(), AuditConfig(), 96, None)
    audit.images(lambda _: None)
    return [(f.kind, f.split, f.row, f.other_split, f.other_row) for f in audit.findings(None, 0)]


A, B, C, D = (encoded(drawing(seed)) for seed in range(4))


def test_every_kind() -> None:
    assert found(
        [
            ("train", A, "red apple", "x"),
            ("train", A, "Red apple!", "x"),  # 1
            ("train", A, "red apple", "y"),  # 2
            ("train", B, "green tree by the sea", "x"),
            ("val", A, "red apple", "x"),  # 4
            ("val", B, "something else", "x"),  # 5
            ("test", C, "green tree by the sea", "x"),  # 6
            ("test", encoded(drawing(1), "JPEG", quality=70), "green tree by the sea 2", "x"),  # 7
            ("test", D, "nothing like it", "x"),
        ]
    ) == [
        ("duplicate", "train", "r1", "r0"),
        ("label conflict", "train", "r2", "r0"),
        ("leak", "val", "r4", "r0"),
        ("same image", "val", "r5", "r3"),
        ("same text", "test", "r6", "r3"),
        ("similar image", "test", "r7", "r3"),
        ("similar text", "test", "r7", "r3"),
    ]


def test_a_leak_with_another_label_is_both() -> None:
    rows = [("train", A, "red apple", "x"), ("test", A, "red apple", "y")]
    assert found(rows) == [("label conflict", "test", "r1", "r0"), ("leak", "test", "r1", "r0")]


def test_rows_without_one_of_the_two() -> None:
    rows = [
        ("train", None, "red apple", "x"),
        ("train", B, None, "x"),
        ("test", None, "red apple", "x"),
        ("test", B, None, "x"),
        ("test", None, None, "x"),
        ("test", b"no image", "red apple", "x"),
    ]
    assert found(rows) == [
        ("bad row", "test", "r4", None),
        ("bad row", "test", "r5", None),
        ("leak", "test", "r2", "r0"),
        ("leak", "test", "r3", "r1"),
    ]


def test_groups_and_odd_images() -> None:
    from PIL import Image

    blank, small = encoded(Image.new("RGB", (90, 90), "white")), encoded(drawing(5).resize((20, 60)))
    rows = [
        ("train", A, "one", "x", "g"),
        ("train", blank, "two", "x"),
        ("val", blank, "twenty", "x", "h"),
        ("test", small, "three", "x", "g"),
    ]
    assert sorted(found(rows)) == [
        ("blank image", "train", "r1", None),
        ("blank image", "val", "r2", None),
        ("group in two splits", "test", "r3", None),
        ("small image", "test", "r3", None),
    ]


def test_test_tables_are_compared_with_training_rows_not_with_one_another() -> None:
    leaked, own = (A, "red apple", "x", None), (B, "green tree by the sea", "y", "g1")
    assert found_in_tables(
        ("train", [leaked, (C, "a sunny day", "z", None)]),
        ("test/photo", [leaked, own, own]),
        ("test/sketch", [own, (B, "something else", "x", "g1"), leaked, own, (D, "a sunny day", "z", None)]),
    ) == [
        ("leak", "test/photo", 0, "train", 0),
        ("duplicate", "test/photo", 2, "test/photo", 1),
        ("leak", "test/sketch", 2, "train", 0),
        ("duplicate", "test/sketch", 3, "test/sketch", 0),
        ("same text", "test/sketch", 4, "train", 1),
    ]
