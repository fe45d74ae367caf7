"""Paths as tables have them."""

from __future__ import annotations

import base64
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from mmft.config.schema.data import ColumnsConfig
from mmft.data.images.image import BadImage, ImageReader
from mmft.data.images.paths import image_source, why_missing
from mmft.data.table import Table


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pics").mkdir()
    names = ("plain.jpg", "UPPER.JPG", "with space.jpg", "a%20b.jpg", unicodedata.normalize("NFD", "café.jpg"))
    for name in names:
        Image.new("RGB", (4, 4), "red").save(tmp_path / "pics" / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def read(root: Path, text: str) -> None:
    ImageReader(8, "squash", "white", 100)(image_source(str(root), text))


def test_forms_that_are_understood(root: Path) -> None:
    data = base64.b64encode((root / "pics/plain.jpg").read_bytes()).decode()
    for text in (
        *("pics/plain.jpg", "pics\\plain.jpg", " pics/plain.jpg", "pics/plain.jpg \t", "./pics/../pics/plain.jpg"),
        *(f"file://{root}/pics/plain.jpg", "~/pics/plain.jpg", "pics/with%20space.jpg", " pics\\with%20space.jpg "),
        *("pics/a%20b.jpg", "pics/caf\u00e9.jpg", "pics/cafe\u0301.jpg", str(root / "pics/plain.jpg")),
        *(data, f"data:image/jpeg;base64,{data}", "\n".join(data[at : at + 76] for at in range(0, len(data), 76))),
    ):
        read(root, text)


NEAR = {
    "pics/upper.jpg": "there is {root}/pics/UPPER.JPG",
    "pics/plain": "there is {root}/pics/plain.jpg",
    "pics/plain.png": "there is {root}/pics/plain.jpg",
    "clipart/pics/plain.jpg": "there is {root}/pics/plain.jpg: set data.root",
    "C:\\Users\\me\\pics\\plain.jpg": "there is {root}/pics/plain.jpg: set data.root",
    "pics/plain.jpg;pics/UPPER.JPG": "several paths in one cell",
    "pics/plain.jpg, pics/UPPER.JPG": "several paths in one cell",
    "['pics/plain.jpg', 'pics/UPPER.JPG']": "a list written as text",
    "{'bytes': None, 'path': 'pics/plain.jpg'}": "an object written as text",
    "b'\\xff\\xd8\\xff\\xe0\\x00\\x10JFIF'": "bytes written as text",
    "pics/plain.jpg/x.jpg": "{root}/pics/plain.jpg is a file, not a folder",
    "nowhere/at all.jpg": "no such file: {root}/nowhere/at all.jpg",
    "x-" * 2500: "no such file: {root}/x-x-",
}


@pytest.mark.parametrize("text", list(NEAR))
def test_what_is_missing_is_named_with_what_is_near(root: Path, text: str) -> None:
    with pytest.raises(BadImage) as caught:
        read(root, text)
    assert NEAR[text].format(root=root) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_path_that_exists_is_never_changed(root: Path) -> None:
    assert image_source(str(root), "pics/a%20b.jpg") == f"{root}/pics/a%20b.jpg"
    assert why_missing(f"{root}/pics/plain.gif").startswith(f"no such file: {root}/pics/plain.gif; there is")


def test_templates_of_columns(root: Path) -> None:
    rows = [{"shop": "pics", "name": "plain", "n": 1.0}, {"shop": "pics", "name": None, "n": 2.0}]
    columns = ColumnsConfig(image="{shop}/{name}.jpg")
    table = Table.from_rows(rows, columns, root)
    assert table.image(0) == f"{root}/pics/plain.jpg"
    assert table.bad[1].reason == "no name for the image's path"
    numbered = Table.from_rows(pa.table({"n": [1.0, 2.0]}), ColumnsConfig(image="pics/{n}.jpg"), root)
    assert numbered.image(1) == f"{root}/pics/2.jpg"
