"""Texts and labels that a template makes of columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmft.config.schema.data import ColumnsConfig
from mmft.data.table import Table
from mmft.errors import UserError

ROWS = pd.DataFrame({"name": ["a cup", "a key", "", "7"], "material": ["clay", None, "wood", " "], "n": [1, 2, 3, 4]})
EVERY = np.arange(len(ROWS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


def opened(path: Path, **columns: str | list[str]) -> Table:
    return Table.open(path, ColumnsConfig(**columns))  # type: ignore[arg-type]


def test_a_text_is_made_of_columns(path: Path) -> None:
    table = opened(path, text="What is {name} ({n}) made of? {{name}}", label="It is {material}.")
    texts = ["What is a cup (1) made of? {name}", "What is a key (2) made of? {name}", None]
    assert table.texts(EVERY) == [*texts, "What is 7 (4) made of? {name}"]
    assert table.labels(EVERY) == ["It is clay.", None, "It is wood.", None]
    assert {row: bad.reason for row, bad in table.bad.items()} == {2: "neither an image nor a text"}


def test_a_template_may_stand_beside_columns(path: Path) -> None:
    table = opened(path, text=["Look.{n}", "name"])
    assert table.texts(EVERY) == ["Look.1 a cup", "Look.2 a key", "Look.3", "Look.4 7"]


def test_a_column_of_that_very_name_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    pd.DataFrame({"name": ["cup"], "what is {name}": ["this"], "{name}": ["that"]}).to_csv(path, index=False)
    table = opened(path, text="what is {name}", label="{name}")
    assert table.texts(np.arange(1)) == ["this"]
    assert table.labels(np.arange(1)) == ["that"]


@pytest.mark.parametrize("role", ["text", "label"])
def test_an_unknown_column_is_named_with_the_nearest(path: Path, role: str) -> None:
    with pytest.raises(UserError, match=rf"data\.columns\.{role}=materal: .* no such column; nearest: material"):
        opened(path, **{"text": "name", role: "of {materal}"})


def test_rows_in_memory_are_put_into_the_template() -> None:
    table = Table.from_rows([{"name": "a cup", "n": 1}], ColumnsConfig(text="What is {name}?"))
    assert table.texts(np.arange(1)) == ["What is a cup?"]
