"""Tables of every format: what a row comes out as, what makes a row bad, what makes a file unusable."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mmft.config.schema.data import ColumnsConfig
from mmft.data.images.image import ImageReader
from mmft.data.images.pixels import to_rgb
from mmft.data.table import Table
from mmft.errors import UserError

Write = Callable[..., Path]
PAIRS = ColumnsConfig(image="image", text="text")
ROWS = [
    {"image": "a.png", "text": "one", "label": "x", "id": "A", "split": "train", "weight": "1", "group": "g"},
    {"image": "", "text": "two", "label": "y", "id": "B", "split": "val", "weight": "0", "group": ""},
    {"image": "/abs/c.png", "text": " ", "label": "", "id": "C", "split": "test", "weight": "2.5", "group": "g"},
]


def every_row(table: Table) -> np.ndarray:
    return np.arange(len(table))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"])
def test_every_format_gives_the_same_rows(
    write: Write, all_columns: ColumnsConfig, tmp_path: Path, ending: str
) -> None:
    if ending == ".parquet":
        path = tmp_path / "t.parquet"
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path = write(f"t{ending}", ROWS)
    table = Table.open(path, all_columns)
    assert len(table) == 3
    assert table.bad == {}
    assert table.row(0).image == str(tmp_path / "a.png")
    assert [table.image(1), table.image(2)] == [None, "/abs/c.png"]
    assert table.texts(every_row(table)) == ["one", "two", None] == [table.text(row) for row in range(3)]
    assert table.labels(every_row(table)) == ["x", "y", None]
    assert table.ids() == ["A", "B", "C"]
    assert table.splits() == ["train", "val", "test"]
    assert [table.weight(row) for row in range(3)] == [1.0, 0.0, 2.5]
    groups = table.groups()
    assert groups is not None
    assert groups[0] == groups[2] == "g"


def test_from_rows_takes_mappings_arrow_and_pandas_alike(all_columns: ColumnsConfig) -> None:
    kinds: list[Any] = [ROWS, pa.Table.from_pylist(ROWS), pd.DataFrame(ROWS)]
    for rows in kinds:
        table = Table.from_rows(rows, all_columns, Path("/root"))
        assert [table.image(row) for row in range(3)] == ["/root/a.png", None, "/abs/c.png"]
        assert table.labels(every_row(table)) == ["x", "y", None]


def test_a_frame_with_mixed_columns_is_read_value_by_value() -> None:
    class Series(list[Any]):
        def tolist(self) -> list[Any]:
            return list(self)

        def __arrow_array__(self, type: Any = None) -> pa.Array:
            raise pa.ArrowInvalid("mixed")

    class Frame:
        columns = ("text", "label")
        iloc = SimpleNamespace()

        def __len__(self) -> int:
            return 2

    frame = Frame()
    data = [Series(["a", 7]), Series([1, "one"])]
    frame.iloc = type("I", (), {"__getitem__": lambda _, key: data[key[1]]})()
    table = Table.from_rows(frame, ColumnsConfig(text="text", label="label"))
    assert table.texts(every_row(table)) == ["a", "7"]
    assert table.labels(every_row(table)) == [1, "one"]


def held(table: Table) -> bytes:
    """The first row's image, which the table holds itself."""
    image = table.image(0)
    assert isinstance(image, bytes)
    return image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_images_of_pillow_have_the_pixels_of_their_files(mode: str) -> None:
    numbers = np.random.default_rng(0).integers(0, 255, (20, 30, 4), dtype=np.uint8)
    image = Image.fromarray(numbers)
    image = (
        Image.new(mode, (30, 20), 30_000)
        if mode[0] in "IF"
        else image.convert("RGB" if mode == "P" else mode).convert(mode)
    )
    table = Table.from_rows(pd.DataFrame({"image": [image, None], "text": ["a", "b"]}), PAIRS)
    assert (table.bad, table.image(1)) == ({}, None)
    read = ImageReader(20, "pad", "white", 10_000)
    with Image.open(io.BytesIO(held(table))) as again:
        assert np.array_equal(np.array(to_rgb(again, (1, 2, 3))), np.array(to_rgb(image, (1, 2, 3))))
    assert read(held(table)).shape == (3, 20, 20)


def test_a_image_of_pillow_is_turned_as_its_file_says(encode: Callable[..., bytes]) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encode(Image.linear_gradient("L").resize((30, 20)), "PNG", exif=turned)
    gone = Image.open(io.BytesIO(data))
    gone.close()
    rows = [{"image": Image.open(io.BytesIO(data)), "text": ""}, {"image": gone, "text": "b"}]
    table = Table.from_rows(rows, PAIRS)
    read = ImageReader(20, "squash", "white", 10_000)
    assert torch.equal(read(held(table)), read(data))
    assert "an image that cannot be read" in table.bad[1].reason


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
def test_arrays_are_the_images_that_they_hold(shape: tuple[int, ...]) -> None:
    numbers = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    for rows in ([{"image": numbers, "text": "a"}], pd.DataFrame({"image": [numbers], "text": ["a"]})):
        table = Table.from_rows(rows, PAIRS)
        with Image.open(io.BytesIO(held(table))) as again:
            assert np.array_equal(np.array(again), numbers)


def pixels_of(value: Any) -> list[Any]:
    """An image given in Python, as it is read: (H, W, 3)."""
    table = Table.from_rows([{"image": value, "text": "a"}], PAIRS)
    assert not table.bad
    return ImageReader(8, "squash", "white", 10_000)(held(table)).permute(1, 2, 0).tolist()


def test_arrays_and_tensors_whose_meaning_is_clear() -> None:
    numbers = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected, tensor = numbers.tolist(), torch.from_numpy(numbers)
    for value in (numbers.transpose(2, 0, 1), (numbers / 255).astype(np.float32), numbers / 255):
        assert pixels_of(value) == expected
    for one in (tensor, tensor.double() / 255, (tensor / 255).requires_grad_()):
        assert pixels_of(one) == pixels_of(one.permute(2, 0, 1)) == expected
    wide = torch.from_numpy(np.tile(numbers, (2, 1, 1)))  # (16, 8, 3): the channels can only be the last
    assert pixels_of(wide.float() / 255) == pixels_of(wide.numpy())
    grey = numbers[:, :, 0]
    for value in (grey, grey[None], grey[:, :, None], torch.from_numpy(grey / 255)[None]):
        assert pixels_of(value) == np.stack([grey] * 3, axis=-1).tolist()
    assert pixels_of(grey > 100) == pixels_of((grey > 100).astype(np.uint8) * 255)
    assert pixels_of(torch.full((3, 8, 8), 0.5, dtype=torch.bfloat16))[0][0] == [128] * 3


WRONG_IMAGES = [
    (
        np.zeros((20, 30, 3), np.int64),
        "an array of int64 (20, 30, 3), where (H, W), (H, W, C) or (C, H, W) of uint8 or of floats from 0 to 1 is",
    ),
    (np.full((20, 30, 3), 200.0), "with values from 200 to 200, where (H, W)"),
    (np.full((20, 30), np.nan), "with values from nan to nan"),
    (np.zeros((2, 20, 30), np.uint8), "an array of uint8 (2, 20, 30), where"),
    (torch.zeros(1, 3, 20, 30), "a tensor of float32 (1, 3, 20, 30), where"),
    (torch.zeros(3, 30, 3), "whose first or last dimension may be the channels"),
    (np.zeros((0, 30, 3), np.uint8), "an array of uint8 (0, 30, 3), where"),
    (io.StringIO("text"), "a file opened as text; open it with mode 'rb'"),
    (io.BytesIO(), "an empty file"),
    (3.5, "a float where a path, encoded bytes, a binary file, a Pillow image, an array or a tensor is needed"),
]


@pytest.mark.parametrize(("wrong", "reason"), WRONG_IMAGES)
def test_an_image_of_another_kind_is_a_bad_row(wrong: Any, reason: str) -> None:
    table = Table.from_rows([{"image": wrong, "text": "a"}, {"image": "a.png", "text": "b"}], PAIRS)
    assert list(table.bad) == [0]
    assert reason in table.bad[0].reason


def test_binary_files_are_read_from_their_start(encode: Callable[..., bytes], tmp_path: Path) -> None:
    data = encode(Image.linear_gradient("L"), "PNG")
    written, closed = io.BytesIO(), io.BytesIO(data)
    written.write(data)
    closed.close()
    (tmp_path / "a.png").write_bytes(data)
    with (tmp_path / "a.png").open("rb") as file:
        for value in (written, file, {"bytes": io.BytesIO(data), "path": None}):
            for rows in ([{"image": value, "text": "a"}], pd.DataFrame({"image": [value], "text": ["a"]})):
                assert held(Table.from_rows(rows, PAIRS)) == data
    assert "closed file" in Table.from_rows([{"image": closed, "text": "a"}], PAIRS).bad[0].reason


@pytest.mark.parametrize("mode", ["HSV", "LAB", "RGBX", "La", "RGBa"])
def test_images_of_pillow_in_rare_modes(mode: str) -> None:
    image = Image.new("LAB", (8, 8), (0, 128, 128)) if mode == "LAB" else rare(mode)
    assert pixels_of(image)[0][0] == pytest.approx([0, 0, 0], abs=1)


def rare(mode: str) -> Image.Image:
    black = Image.new("RGBA", (8, 8), "black")
    return (
        black.convert("LA").convert(mode)
        if mode == "La"
        else black.convert("RGB" if mode == "HSV" else "RGBA").convert(mode)
    )


def test_image_columns_of_every_kind() -> None:
    columns = ColumnsConfig(image="image")
    data = pa.array([b"png", None, b""], pa.binary())
    assert Table.from_rows(pa.table({"image": data}), columns).image(0) == b"png"
    struct = pa.array([{"bytes": b"png", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None])
    table = Table.from_rows(pa.table({"image": struct}), columns, Path("/r"))
    assert [table.image(row) for row in range(3)] == [b"png", "/r/b.png", None]
    assert list(table.bad) == [2]
    listed = [{"image": b"png"}, {"image": {"bytes": None, "path": "b.png"}}, {"image": Path("c.png")}]
    table = Table.from_rows(listed, columns, Path("/r"))
    assert [table.image(row) for row in range(3)] == [b"png", "/r/b.png", "/r/c.png"]


def test_texts_of_several_columns_are_joined_and_empty_ones_skipped() -> None:
    rows = [{"a": "one", "b": "two"}, {"a": None, "b": "two"}, {"a": "  ", "b": None}, {"a": 7, "b": 1.5}]
    table = Table.from_rows(rows, ColumnsConfig(text=["a", "b"]))
    assert table.texts(every_row(table)) == ["one two", "two", None, "7 1.5"]
    assert table.bad[2].reason == "neither an image nor a text"


def test_labels_stay_what_they_are() -> None:
    columns = ColumnsConfig(text="t", label="y")
    for values in ([1, 2, None], [True, False, None], [1.5, math.nan, 2.0], ["1", "", "b"], [1, "1", True]):
        table = Table.from_rows([{"t": "t", "y": value} for value in values], columns)
        expected = [None if value == "" or value != value else value for value in values]
        got = table.labels(every_row(table))
        assert got == expected
        assert [type(value) for value in got] == [type(value) for value in expected]
    dictionary = pa.table({"t": ["t"] * 2, "y": pa.array(["u", "v"]).dictionary_encode()})
    assert Table.from_rows(dictionary, columns).labels(np.array([1, 0])) == ["v", "u"]


@pytest.mark.parametrize(
    "values", [[["a", "b"], [], None], [[1, "a"], ["b"], None], [[2], [3, 4], None], [["\ud800"], []]]
)
def test_lists_of_labels_stay_lists(values: list[Any]) -> None:
    table = Table.from_rows([{"t": "t", "y": value} for value in values], ColumnsConfig(text="t", label="y"))
    assert table.bad == {}
    assert table.labels(every_row(table)) == values
    as_arrow = [value for value in values if value is None or all(isinstance(one, int) for one in value)]
    parquet = pa.table({"t": ["t"] * len(as_arrow), "y": pa.array(as_arrow, pa.large_list(pa.int64()))})
    table = Table.from_rows(parquet, ColumnsConfig(text="t", label="y"))
    assert table.labels(every_row(table)) == as_arrow


def test_only_the_columns_that_are_needed_can_spoil_a_row(write: Write) -> None:
    path = write("t.csv", b"text,other\nfine,\xff\xfe\n")
    assert Table.open(path, ColumnsConfig(text="text")).bad == {}


BAD_LINES = [
    (b"a.png,t,x,I", "", "4 fields where the header has 7"),
    (b"a.png,t,x,I,train,1,g,more", "", "8 fields"),
    (b'"a.png,t,x,I,train,1,g,more', "", "a quote opened in line 3 is not closed"),
    (b"a.png,\xff\xfe,x,I,train,1,g", "text", "not UTF-8"),
    (b"a.png,t,\xff,I,train,1,g", "label", "not UTF-8"),
    (b",,x,I,train,1,g", "", "neither an image nor a text"),
    (b" , ,x,I,train,1,g", "", "neither an image nor a text"),
    (b"http://x/a.png,t,x,I,train,1,g", "image", "a URL"),
    (b"s3://bucket/a.png,t,x,I,train,1,g", "image", "a URL"),
    (b"a.png,t,x,I,train,-1,g", "weight", "weight -1.0"),
    (b"a.png,t,x,I,train,nan,g", "weight", "weight nan"),
    (b"a.png,t,x,I,train,inf,g", "weight", "weight inf"),
    (b"a.png,t,x,I,train,heavy,g", "weight", "'heavy' is not a number"),
    (b"a.png,t,x,I,train,,g", "weight", "no weight"),
    (b"a.png,t,x,I,holdout,1,g", "split", "'holdout' is no split; allowed: train, val, test"),
    (b"a.png,t,x,I,,1,g", "split", "no split"),
]


@pytest.mark.parametrize(("line", "column", "reason"), BAD_LINES)
def test_a_bad_csv_line_spoils_its_own_row_only(
    write: Write, all_columns: ColumnsConfig, line: bytes, column: str, reason: str
) -> None:
    good = [b'a.png,"quoted, text",x,%s,train,1,g' % name for name in (b"before", b"after", b"last")]
    path = write("t.csv", b"\n".join([b"image,text,label,id,split,weight,group", good[0], line, *good[1:]]))
    table = Table.open(path, all_columns)
    assert list(table.bad) == [1]
    assert table.bad[1].column == column
    assert reason in table.bad[1].reason
    assert [table.id(row) for row in (0, 2, 3)] == ["before", "after", "last"]
    assert table.text(2) == "quoted, text"


BAD_OBJECTS = [
    ('{"text": "t"', "", "not JSON"),
    ("[1, 2]", "", "not a JSON object but list"),
    ("17", "", "not a JSON object"),
    ("[" * 100_000, "", "not JSON"),
    (b'{"text": "\xff"}', "", "not UTF-8"),
    ('{"text": ["t"]}', "text", "a list where a text is needed; several captions of an image are several rows, which"),
    ('{"text": "t", "weight": 1, "group": ["g"]}', "group", "a list where a text is needed"),
    ('{"text": {"t": 1}}', "text", "an object where a text is needed"),
    ('{"text": "\\ud800"}', "text", "not valid Unicode"),
    ('{"text": "t", "image": 17}', "image", "an int where a path"),
    ('{"text": "t", "image": ["a.png", ["b.png"]]}', "image", "image 2: a list where a path"),
    ('{"text": "t", "label": ["x", ["y"]]}', "label", "a list where a label"),
    ('{"text": "t", "label": ["x", {"y": 1}]}', "label", "an object where a label"),
    ('{"text": "t", "label": {"x": 1}}', "label", "an object where a label"),
    ('{"text": "t", "weight": true}', "weight", "weight True is not a number"),
    ('{"text": "t", "weight": NaN}', "weight", "weight nan"),
    ("{}", "weight", "no weight"),
    ('{"text": null, "weight": 1}', "", "neither an image nor a text"),
]


@pytest.mark.parametrize(("line", "column", "reason"), BAD_OBJECTS)
def test_a_bad_jsonl_line_spoils_its_own_row_only(write: Write, line: str | bytes, column: str, reason: str) -> None:
    good = b'{"text": "good", "image": "a.png", "label": "x", "weight": 1, "group": "g"}'
    line = line if isinstance(line, bytes) else line.encode()
    columns = ColumnsConfig(image="image", text="text", label="label", weight="weight", group="group")
    table = Table.open(write("t.jsonl", b"\n".join([good, line, b"", good])), columns)
    assert len(table) == 3
    assert list(table.bad) == [1]
    assert table.bad[1].column == column
    assert reason in table.bad[1].reason
    assert table.text(2) == "good"


def test_a_quote_that_swallows_lines_gives_them_back(write: Write) -> None:
    columns = ColumnsConfig(text="text", id="id")
    text = 'id,text\n0,"two\nlines"\n1,"open\n2,two\n3,"last, and open\n4,"truly\nopen'
    table = Table.open(write("t.csv", text), columns)
    assert table.text(0) == "two\nlines"
    assert table.id(2) == "2"
    assert table.text(1) == '"open'
    assert {3, 4} == set(table.bad)
    assert len(table) == 5


def test_line_ends_marks_and_blank_lines_of_other_systems(write: Write) -> None:
    for newline in ("\r\n", "\r", "\n"):
        text = "\ufeffid,text" + newline + "A,one" + newline * 2 + "B,two" + newline
        table = Table.open(write("t.csv", text), ColumnsConfig(text="text", id="id"))
        assert (table.ids(), table.text(1)) == (["A", "B"], "two")
    long = "word " * 100_000
    assert Table.open(write("t.csv", f"text\n{long}\n"), ColumnsConfig(text="text")).text(0) == long


def test_parquet_with_broken_text_spoils_that_row(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff")]
    )
    pq.write_table(pa.table({"text": broken}), tmp_path / "t.parquet")
    table = Table.open(tmp_path / "t.parquet", ColumnsConfig(text="text"))
    assert table.text(0) == "a"
    assert table.bad[1].reason == "not UTF-8 text"


UNUSABLE: list[tuple[str, str | bytes, str]] = [
    ("t.csv", b"", "the file is empty"),
    ("t.csv", "image,text,label\n", "no rows"),
    ("t.csv", "\n\n", "is empty"),
    ("t.xlsx", "x", "cannot read '.xlsx'; allowed: .csv, .tsv, .txt, .jsonl"),
    ("table", "x", "cannot read"),
    ("t.csv", "image,text,label\n1,2,3\n".encode("utf-16-le"), "UTF-16"),
    ("t.csv", "image,txt,label\n1,2,3\n", "data.columns.text=text"),
    ("t.csv", "image,txt,label\n1,2,3\n", "nearest: txt; columns: image, txt, label"),
    ("t.csv", "image,TEXT,label\n1,2,3\n", "nearest: TEXT"),
    ("t.csv", "image#text#label\n1#2#3\n", "data.reading.separator"),
    ("t.csv", "image,text,text,label\n1,2,3,4\n", "has 2 columns of that name"),
    ("t.jsonl", '{"image": "a"}\n', "data.columns.label=label"),
    ("t.parquet", "no parquet", "is not a readable Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "message"), UNUSABLE)
def test_an_unusable_file_is_the_users_error(write: Write, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Table.open(write(name, content), ColumnsConfig(image="image", text="text", label="label"), key="data.train")
    assert message in str(caught.value)
    assert f"data.train={write(name, content)}" in str(caught.value)


def test_missing_columns_are_all_named_at_once_unless_optional(write: Write, all_columns: ColumnsConfig) -> None:
    path = write("t.csv", "id,image\nA,a.png\n")
    with pytest.raises(UserError) as caught:
        Table.open(path, all_columns)
    assert len(caught.value.messages) == 5
    table = Table.open(path, all_columns, optional=("text", "label", "split", "weight", "group"))
    assert (table.row(0).label, table.row(0).weight, table.splits(), table.groups()) == (None, 1.0, None, None)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    columns = ColumnsConfig(text="text")
    with pytest.raises(UserError, match="no such file"):
        Table.open(tmp_path / "t.csv", columns)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        Table.open(tmp_path / "folder.csv", columns)
    with pytest.raises(UserError, match="both null"):
        Table.open(tmp_path / "t.csv", ColumnsConfig(label="label"))


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        (ColumnsConfig(text="c"), pa.array([[1, 2]])),
        (ColumnsConfig(text="c"), pa.array([b"bytes"])),
        (ColumnsConfig(image="c"), pa.array([1.5])),
        (ColumnsConfig(image="c"), pa.array([{"width": 3}])),
        (ColumnsConfig(image="c"), pa.array([{"bytes": 3}])),
        (ColumnsConfig(text="t", label="c"), pa.array([{"a": 1}])),
        (ColumnsConfig(text="t", label="c"), pa.array([[[1]]])),
        (ColumnsConfig(text="t", split="c"), pa.array([[1]])),
    ],
)
def test_a_column_of_an_impossible_type_is_the_users_error(columns: ColumnsConfig, values: pa.Array) -> None:
    with pytest.raises(UserError, match=r"data\.columns\.\w+=c: .* holds "):
        Table.from_rows(pa.table({"t": ["t"], "c": values}), columns)


def test_no_known_split_at_all_is_the_users_error(write: Write) -> None:
    path = write("t.csv", "text,split\na,x\nb,Y\n")
    with pytest.raises(UserError, match="no row of .* is train, val, test; its values are 'Y', 'x'"):
        Table.open(path, ColumnsConfig(text="text", split="split"))


NO_ROWS = [[], pd.DataFrame({"text": []}), pa.table({"text": pa.array([], pa.string())})]


@pytest.mark.parametrize("rows", NO_ROWS)
def test_no_rows_are_no_error(rows: Any) -> None:
    assert len(Table.from_rows(rows, ColumnsConfig(text="text"))) == 0


@pytest.mark.parametrize("rows", [17, "text"])
def test_rows_of_no_kind_are_the_users_error(rows: Any) -> None:
    with pytest.raises(UserError, match="^rows: "):
        Table.from_rows(rows, ColumnsConfig(text="text"))
