"""Rows of one image stay in one split, and limits are drawn by label."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmft.config.schema.data import ColumnsConfig, DataConfig, FractionsConfig
from mmft.data.splitting.splits import load_splits
from mmft.data.splitting.units import same_images, units_of
from mmft.data.table import Table
from mmft.run_folder import as_when_saved


def splits_of(path: Path, **more: Any) -> dict[str, str]:
    """The split of each row's text."""
    columns = ColumnsConfig(image="image", text="text", id=more.pop("id", None), label=more.pop("label", None))
    config = DataConfig(
        path=str(path), columns=columns, fractions=FractionsConfig(train=0.5, val=0.25, test=0.25), **more
    )
    found = load_splits(config, 0)
    return {str(split.table.text(row)): name for name, split in found.items() for row in split.rows.tolist()}


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Sixty rows of twelve images, five captions each; every image lies there under two names."""
    lines = []
    for image in range(12):
        for name in (f"{image}.png", f"copy of {image}.png"):
            (tmp_path / name).write_bytes(b"%d" % image * 40_000)
        lines += [f"{'copy of ' if n % 2 else ''}{image}.png,caption {image} {n}" for n in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(["image,text", *lines]))
    return tmp_path / "t.csv"


def of_images(splits: dict[str, str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for text, name in splits.items():
        found.setdefault(text.split()[1], set()).add(name)
    return found


@pytest.mark.parametrize("more", [{}, {"folds": 3, "fold": 1}])
def test_an_image_is_in_one_split_by_path_and_by_bytes(captions: Path, more: dict[str, int]) -> None:
    assert all(len(names) == 1 for names in of_images(splits_of(captions, **more)).values())
    assert any(len(names) > 1 for names in of_images(splits_of(captions, drawing="by_row", **more)).values())


def test_it_is_said(captions: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    splits_of(captions)
    assert "12 images occur in several rows (60 rows); rows of one image are kept in one split" in caplog.text


def test_the_order_of_rows_changes_nothing(captions: Path) -> None:
    before = splits_of(captions, id="text")
    head, *lines = captions.read_text().splitlines()
    captions.write_text("\n".join([head, *reversed(lines)]))
    assert splits_of(captions, id="text") == before


def test_rows_without_common_images_are_split_as_ever(captions: Path) -> None:
    head, *lines = captions.read_text().splitlines()
    captions.write_text("\n".join([head, *lines[::5]]))
    assert splits_of(captions) == splits_of(captions, drawing="by_row")


def test_groups_and_images_form_chains() -> None:
    rows = [
        {"g": "a", "image": b"1"},
        {"g": "a", "image": b"2"},
        {"g": "b", "image": b"2"},
        {"g": None, "image": b"3"},
        {"g": "c", "image": None},
    ]
    units = units_of(Table.from_rows(rows, ColumnsConfig(image="image", group="g")), "by_image_and_label")
    assert units == ["group a", "group a", "group a", "id 3", "group c"]


def test_equal_bytes_are_found_among_files_and_bytes(tmp_path: Path) -> None:
    for name, content in {"a": b"x" * 20_000, "b": b"x" * 20_000, "c": b"x" * 19_999 + b"y", "d": b"z"}.items():
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (str(tmp_path / name) for name in "abcd")
    assert same_images([a, b, c, d, None, b"z", "/nowhere"]) == [a, a, c, d, None, d, "/nowhere"]


def test_a_limit_keeps_every_label(tmp_path: Path) -> None:
    rows = [(f"row {at}", "rare" if at % 50 == 0 else "usual" if at % 2 else "common") for at in range(200)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["text,image,label", *(f"{text},,{label}" for text, label in rows)]))
    config = DataConfig(path=str(path), columns=ColumnsConfig(text="text", label="label"), limit=10)
    config.fractions = FractionsConfig(train=1.0, val=0.0, test=0.0)
    split = load_splits(config, 0)["train"]
    counts = Counter(split.table.labels(split.rows))
    assert sum(counts.values()) == 10
    assert counts["rare"] == 1
    assert min(counts["usual"], counts["common"]) >= 4


def test_older_runs_draw_as_they_did() -> None:
    assert as_when_saved({"data": {"path": "t.csv"}})["data"]["drawing"] == "by_row"
    assert as_when_saved({"data": {"drawing": "by_image_and_label"}})["data"]["drawing"] == "by_image_and_label"
