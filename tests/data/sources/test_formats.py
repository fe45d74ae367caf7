"""Other sources of rows: several files, JSON, Arrow, features of `datasets`, lists of captions, rows in memory."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmft.config.paths import TABLES, table_files
from mmft.config.schema.data import ColumnsConfig, DataConfig, ReadingConfig
from mmft.data.sources.formats import READERS
from mmft.data.splitting.splits import load_splits
from mmft.data.table import Table
from mmft.errors import UserError

TEXT = ColumnsConfig(text="t", label="y")


def labels(table: Table) -> list[Any]:
    return table.labels(np.arange(len(table)))


def texts(table: Table) -> list[str | None]:
    return [table.text(row) for row in range(len(table))]


def test_every_extension_has_a_reader() -> None:
    assert set(TABLES) == set(READERS)


def classes(values: list[Any], kind: Any = None, feature: Any = None) -> pa.Table:
    feature = feature or {"names": ["cat", "dog"], "_type": "ClassLabel"}
    info = {"info": {"features": {"t": {"dtype": "string", "_type": "Value"}, "y": feature}}}
    table = pa.table({"t": [f"text {at}" for at in range(len(values))], "y": pa.array(values, kind)})
    return table.replace_schema_metadata({"huggingface": json.dumps(info)})


def test_classes_of_datasets_have_their_names(tmp_path: Path) -> None:
    pq.write_table(classes([1, 0, -1, None]), tmp_path / "t.parquet")
    assert labels(Table.open(tmp_path / "t.parquet", TEXT)) == ["dog", "cat", None, None]
    several = {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "_type": "Sequence"}
    assert labels(Table.from_rows(classes([[1, 0], []], feature=several), TEXT)) == [["dog", "cat"], []]
    assert labels(Table.from_rows(classes([1.0, 0.0]), TEXT)) == [1.0, 0.0]


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files(tmp_path: Path, stream: bool) -> None:
    table = classes([1, 0])
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert labels(Table.open(tmp_path / "t.arrow", TEXT)) == ["dog", "cat"]
    (tmp_path / "t.arrow").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not a readable Arrow file"):
        Table.open(tmp_path / "t.arrow", TEXT)


def test_json_lists_and_lines(tmp_path: Path) -> None:
    rows = [{"t": "a", "y": 1}, {"t": "b", "y": 2}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert texts(Table.open(tmp_path / "t.json", TEXT)) == ["a", "b"]
    (tmp_path / "t.json").write_text("\n".join(map(json.dumps, rows)))
    assert texts(Table.open(tmp_path / "t.json", TEXT)) == ["a", "b"]
    (tmp_path / "t.json").write_text("[1,")
    with pytest.raises(UserError, match="is not JSON"):
        Table.open(tmp_path / "t.json", TEXT)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for name, rows in {"train-00000-of-00002": 6, "train-00001-of-00002": 2, "validation-0": 3, "test": 1}.items():
        pd.DataFrame(
            {"t": [f"{name} {at}" for at in range(rows)], "y": ["a", "b", "c", "a", "b", "c"][:rows]}
        ).to_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def test_a_folder_is_its_files_whose_names_define_splits(shards: Path) -> None:
    splits = load_splits(DataConfig(path=str(shards), columns=TEXT), 0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "val": 3, "test": 1}
    assert splits["val"].table.text(int(splits["val"].rows[0])) == "validation-0 0"


def test_patterns_and_lists_of_files(shards: Path) -> None:
    config = DataConfig(train=str(shards / "train-*.parquet"), val=[str(shards / "validation-0.parquet")], columns=TEXT)
    assert {name: len(split) for name, split in load_splits(config, 0).items()} == {"train": 8, "val": 3}
    assert table_files(str(shards / "none-*.csv")) == [shards / "none-*.csv"]


def test_rows_of_several_files_keep_their_problems(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,y\none,1\ntoo,many,fields\n")
    (tmp_path / "b.jsonl").write_text('{"t": "two", "y": 2}\nnothing\n')
    table = Table.open([str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")], TEXT)
    assert texts(table) == ["one", None, "two", None]
    assert labels(table) == ["1", None, 2, None]
    assert list(table.bad) == [1, 3]


def test_lists_of_captions_can_be_rows(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "t": ["one", "two"]}, {"image": "b.png", "t": "three"}, {"image": "c.png", "t": []}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = ColumnsConfig(image="image", text="t")
    assert list(Table.open(tmp_path / "t.jsonl", columns).bad) == [0, 2]
    table = Table.open(tmp_path / "t.jsonl", columns, reading=ReadingConfig(explode=True))
    assert texts(table) == ["one", "two", "three", None]
    assert [Path(str(table.image(row))).name for row in range(4)] == ["a.png", "a.png", "b.png", "c.png"]
    pq.write_table(pa.table({"t": [["one", "two"], ["three"]], "y": ["a", "b"]}), tmp_path / "t.parquet")
    table = Table.open(tmp_path / "t.parquet", TEXT, reading=ReadingConfig(explode=True))
    assert (texts(table), labels(table)) == (["one", "two", "three"], ["a", "a", "b"])


def test_answers_of_vqa_are_read() -> None:
    answers = [{"answer": "red", "answer_confidence": "yes", "answer_id": 1}, {"answer": "blue", "answer_id": 2}]
    for rows in ([{"t": "q", "y": answers}], pa.Table.from_pylist([{"t": "q", "y": answers}])):
        table = Table.from_rows(rows, TEXT)
        assert (table.bad, labels(table)) == ({}, [["red", "blue"]])


VALUES = {"whole": 8400000000000.0, "half": 0.5, "small": np.float32(0.1), "int": 7, "bool": True, "text": "x"}


@pytest.mark.parametrize(
    ("value", "text"), [*zip(VALUES.values(), ["8400000000000", "0.5", "0.1", "7", "True", "x"], strict=True)]
)
def test_one_value_is_one_text_from_every_source(value: Any, text: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"i": [value, value], "t": [value, value]})
    frame.to_parquet(tmp_path / "t.parquet")
    columns = ColumnsConfig(id="i", text="t")
    plain = value.item() if isinstance(value, np.generic) else value
    tables = [Table.from_rows(frame, columns), Table.open(tmp_path / "t.parquet", columns)]
    if not isinstance(value, np.float32):
        tables += [Table.from_rows([{"i": plain, "t": plain}], columns)]
        (tmp_path / "t.jsonl").write_text(json.dumps({"i": plain, "t": plain}))
        tables += [Table.open(tmp_path / "t.jsonl", columns)]
    assert [(table.id(0), table.text(0)) for table in tables] == [(text, text)] * len(tables)


def in_memory() -> dict[str, Any]:
    rows = [{"t": "a", "y": 1}, {"t": "b", "y": 2}]
    frame = pd.DataFrame(rows)
    table = pa.Table.from_pylist(rows)
    named = namedtuple("named", ["t", "y"])
    return {
        "list": rows,
        "generator": (row for row in rows),
        "columns": {"t": ["a", "b"], "y": np.array([1, 2])},
        "frame": frame,
        "series": [series for _, series in frame.iterrows()],
        "tuples": [named("a", 1), named("b", 2)],
        "table": table,
        "batch": table.to_batches()[0],
        "reader": table.to_reader(),
    }


@pytest.mark.parametrize("kind", list(in_memory()))
def test_rows_in_memory(kind: str) -> None:
    table = Table.from_rows(in_memory()[kind], TEXT)
    assert (texts(table), labels(table)) == (["a", "b"], [1, 2])


def test_one_row_in_memory() -> None:
    for row in ({"t": "a", "y": 1}, pd.Series({"t": "a", "y": 1})):
        assert texts(Table.from_rows(row, TEXT)) == ["a"]
    with pytest.raises(UserError, match="rows: an int given; give a list of dicts"):
        Table.from_rows(7, TEXT)
    with pytest.raises(UserError, match=r"a Series given whose index is not the names .* series\.to_frame\(\)"):
        Table.from_rows(pd.Series(["a", "b"]), TEXT)


def test_rows_of_polars_and_datasets() -> None:
    """Stand-ins with the methods that these libraries have; they are not dependencies."""
    arrow = classes([1, 0])

    class Polars:
        def collect_schema(self) -> None: ...

        def to_arrow(self) -> pa.Table:
            return arrow.replace_schema_metadata(None)

    class Features:
        arrow_schema = arrow.schema

    class Datasets:
        features = Features()

        def with_format(self, kind: str) -> Datasets:
            assert kind == "arrow"
            return self

        def __getitem__(self, _: Any) -> pa.Table:
            return arrow.replace_schema_metadata(None)

        def __len__(self) -> int:
            return len(arrow)

    class Streamed:
        features = Features()

        def with_format(self, kind: str) -> None: ...

        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield from ({"t": "a", "y": 1}, {"t": "b", "y": 2})

    assert labels(Table.from_rows(Polars(), TEXT)) == [1, 0]
    assert labels(Table.from_rows(Datasets(), TEXT)) == ["dog", "cat"]
    assert texts(Table.from_rows(Streamed(), TEXT)) == ["a", "b"]
    with pytest.raises(UserError, match=r"rows: splits train, test given; give the rows of one, such as rows\['train'"):
        Table.from_rows({"train": Datasets(), "test": Streamed()}, TEXT)


def test_columns_are_kept_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("t,y,price\na,1,2.50\nb,2,\n")
    table = Table.open(tmp_path / "t.csv", TEXT, keep=["price"])
    assert [table.passthrough.row(row) for row in (0, 1)] == [{"price": "2.50"}, {"price": None}]
    assert Table.open(tmp_path / "t.csv", TEXT, keep=None).passthrough.row(0) == {"t": "a", "y": "1", "price": "2.50"}
    (tmp_path / "t.jsonl").write_text('{"t": "a", "y": 1, "z": [1, "x"]}\n{"t": "b", "y": 2, "z": 3}\n')
    table = Table.open(tmp_path / "t.jsonl", TEXT, keep=["z"])
    assert table.passthrough.types == {"z": pa.string()}
    with pytest.raises(UserError, match="keep=none: .* has no such column"):
        Table.open(tmp_path / "t.csv", TEXT, keep=["none"])
