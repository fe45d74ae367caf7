"""Rows with several images: from every kind of file and in memory, with places for each in the conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmft.batch import IMAGE_PLACE
from mmft.config.schema.data import ColumnsConfig
from mmft.data.conversations import check_places
from mmft.data.sources.rows_file import write_rows
from mmft.data.table import Table

COLUMNS = ColumnsConfig(image="image", text=None, messages="messages")
ASKED = [{"role": "user", "content": "Which is red?"}]
PLACED = [{"role": "user", "content": "Is <image> like <image>?"}]
ROWS: list[dict[str, Any]] = [
    {"image": ["a.png", "b.png"], "messages": ASKED},
    {"image": ["c.png"], "messages": ASKED},
    {"image": None, "messages": ASKED},
    {"image": ["d.png", "e.png"], "messages": PLACED},
    {"image": ["f.png", "g.png", "h.png"], "messages": PLACED},
    {"image": ["i.png"], "messages": PLACED},
]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".parquet", "memory"])
def test_images_and_their_places(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{ending}"
    if ending == ".csv":
        as_text = [{name: value and json.dumps(value) for name, value in row.items()} for row in ROWS]
        pd.DataFrame(as_text).to_csv(path, index=False)
    elif ending == ".parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    elif ending != "memory":
        path.write_text("\n".join(map(json.dumps, ROWS)) if ending == ".jsonl" else json.dumps(ROWS))
    table = Table.from_rows(ROWS, COLUMNS, tmp_path) if ending == "memory" else Table.open(path, COLUMNS)
    assert table.several_images
    names = [[Path(str(one)).name for one in table.images(row)] for row in range(len(table))]
    assert names == [row["image"] or [] for row in ROWS]
    assert table.image(0) == str(tmp_path / "a.png")
    assert table.image(2) is None
    prompts: Any = table.prompts(np.arange(4))
    assert [prompt[0].text.count(IMAGE_PLACE) for prompt in prompts] == [2, 0, 0, 2]
    assert prompts[0][0].text == f"{IMAGE_PLACE}{IMAGE_PLACE}Which is red?"
    assert {row: bad.why for row, bad in table.bad.items()} == {
        4: "messages: 3 images, but 2 of them have a place",
        5: "messages: 2 places of an image (<image>), but a row has one image",
    }


def test_texts_have_a_place_for_one(tmp_path: Path) -> None:
    rows = [{"image": ["a.png", "b.png"], "text": "red"}, {"image": ["a.png"], "text": "red"}]
    table = Table.from_rows(rows, ColumnsConfig(image="image", text="text"), tmp_path)
    assert {row: bad.why for row, bad in table.bad.items()} == {
        0: "image: 2 images, but only a conversation has places for several: data.columns.messages"
    }


def test_rows_of_a_run_from_python_are_kept_with_all_their_images(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), "red")
    rows = [{"image": [image, image], "messages": ASKED}, {"image": image, "messages": ASKED}]
    write_rows(rows, tmp_path / "rows.parquet", {"image"})
    table = Table.open(tmp_path / "rows.parquet", COLUMNS)
    assert [len(table.images(row)) for row in range(2)] == [2, 1]
    assert all(isinstance(one, bytes) for one in table.images(0))


def test_a_wrong_image_of_several_is_named(tmp_path: Path) -> None:
    table = Table.from_rows([{"image": ["a.png", 7], "messages": ASKED}], COLUMNS, tmp_path)
    assert "image 2: " in table.bad[0].why


@pytest.mark.parametrize(
    ("places", "images", "fits"), [(0, 3, True), (1, 0, True), (2, 2, True), (2, 1, False), (1, 2, False)]
)
def test_places_and_images(places: int, images: int, fits: bool) -> None:
    if fits:
        check_places(places, images)
        return
    with pytest.raises(ValueError, match=r"image"):
        check_places(places, images)


def test_a_gap_in_a_list_makes_a_bad_row() -> None:
    rows = [{"image": ["a.png", None], "messages": ASKED}, {"image": [None], "messages": ASKED}, ROWS[0]]
    table = Table.from_rows(rows, COLUMNS, Path())
    found = {row: bad.reason for row, bad in table.bad.items()}
    assert found == {0: "image 2 of 2 is missing; leave it out of the list"}
