"""CSV as people have it: separators, encodings, blanks, quotation marks; never another row's content."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmft.config.schema.data import ColumnsConfig, ReadingConfig
from mmft.data.table import Table
from mmft.errors import UserError

Write = Callable[[str, str | bytes], Path]
COLUMNS = ColumnsConfig(image="image", text="title", label="label")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def rows_of(path: Path, columns: ColumnsConfig = COLUMNS, **reading: Any) -> list[tuple[str | None, Any]]:
    table = Table.open(path, columns, reading=ReadingConfig(**reading))
    return [(table.text(row), table.row(row).label) for row in range(len(table))]


ROWS = [("a red disc", "disc"), ("Müller's cat", "cat"), ("plain", "dog")]


@pytest.mark.parametrize(
    ("separator", "name"),
    [
        (",", "t.csv"),
        ("\t", "t.csv"),
        ("\t", "t.tsv"),
        (";", "t.csv"),
        ("|", "t.csv"),
        (",", "t.tsv"),
        ("| ", "t.txt"),
        (", ", "t.csv"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_usual_separators_and_marks_are_recognised(write: Write, separator: str, name: str, encoding: str) -> None:
    lines = [["image", "title", "label"], *([f"{at}.png", *row] for at, row in enumerate(ROWS))]
    text = "\n".join(separator.join(line) for line in lines)
    assert rows_of(write(name, text.encode(encoding))) == ROWS


def test_what_is_recognised_is_said(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows_of(write("t.csv", "image; title; label\na.png; b; c\n"))
    assert "columns are separated by semicolons, blanks around fields are removed" in caplog.text
    caplog.clear()
    rows_of(write("t.csv", "image,title,label\na.png,b,c\n"))
    assert not caplog.text


def test_keys_say_what_is_not_recognised(write: Write) -> None:
    text = "image#title#label\na.png#Müller's#c\n"
    assert rows_of(write("t.csv", text.encode("cp1252")), separator="#", encoding="cp1252") == [("Müller's", "c")]
    assert rows_of(write("t.csv", 'image,title,label\na.png,"b",c\n'), quoting="none") == [('"b"', "c")]


def test_another_encoding_is_named_with_its_key(write: Write) -> None:
    path = write("t.csv", "image,title,label\na.png,Müller,c\nb.png,plain,d\n".encode("cp1252"))
    table = Table.open(path, COLUMNS)
    assert list(table.bad) == [0]
    assert "data.reading.encoding" in table.bad[0].reason
    with pytest.raises(UserError, match=r"the column name .*xe9gorie.* is not UTF-8 text. Type data.reading.encoding"):
        Table.open(write("t.csv", "image,title,catégorie\na.png,b,c\n".encode("cp1252")), COLUMNS)


STRAY = [
    ['0,0.png,"Best day ever,cat', '1,1.png,board of 24",dog', "2,2.png,plain,dog"],
    ['0,0.png,"What a day,cat', '1,1.png,"Hello there,dog', "2,2.png,plain,dog"],
    ['0,0.png,5" pipe,cat', '1,1.png,"Old lamp" wide shade,dog', "2,2.png,plain,dog"],
    ["0,0.png,plain,dog", "1,1.png,plain,cat", '2,2.png,"open,dog'],
    ['0,0.png,"open,cat', *(f"{n},{n}.png,plain,dog" for n in range(1, 400)), '400,400.png,close",dog'],
]


@pytest.mark.parametrize("lines", STRAY)
@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_quotation_mark_never_swallows_rows(write: Write, lines: list[str], separator: str) -> None:
    text = "\n".join(["id,image,title,label", *lines]).replace(",", separator)
    columns = ColumnsConfig(id="id", image="image", text="title", label="label")
    table = Table.open(write("t.csv", text), columns)
    assert len(table) == len(lines)
    for row, line in enumerate(lines):
        if row not in table.bad:
            number, image, title, label = line.split(",")
            assert (table.id(row), table.text(row), table.row(row).label) == (number, title, label)
            assert str(table.image(row)).endswith(f"/{image}")
    assert len(table.bad) <= 2


QUOTED = [
    ("id,title,label", [("1", "one,\ntwo", "a"), ("2", 'say "hi"', "b"), ("3", "\nthree\n\nlines\n", "a")]),
    ("title,label", [("Great, really,\nI think", "pos"), ("Bad\n\nfor me", "neg"), ("well", "pos")] * 5),
    ("label,title", [("pos", "first line\nsecond, line"), ("neg", "x\ny, z\nq, r"), ("pos", "p\nneg, no")] * 5),
    ("title,id", [("1\n2,3", "4"), ("5", "6")]),
]


@pytest.mark.parametrize(("header", "rows"), QUOTED)
def test_texts_that_are_properly_quoted_may_have_lines(write: Write, header: str, rows: list[tuple[str, ...]]) -> None:
    import csv
    import io

    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_MINIMAL).writerows([header.split(","), *rows])
    names = header.split(",")
    columns = ColumnsConfig(text="title", label="label" if "label" in names else "id")
    table = Table.open(write("t.csv", out.getvalue()), columns)
    assert table.bad == {}
    at = names.index("title")
    assert [table.text(row) for row in range(len(table))] == [row[at] for row in rows]


def test_numbers_with_other_marks(write: Write) -> None:
    text = "image;title;label\na.png;b;1.217,50\nc.png;d;18\ne.png;f;n/a\n"
    labels = [label for _, label in rows_of(write("t.csv", text), decimal=",", thousands=".")]
    assert labels == ["1217.50", "18", "n/a"]


def test_names_of_splits(write: Write) -> None:
    names = ["Train", "TRAINING", "validation", "dev", "Test", "holdout"]
    text = "\n".join(["title,split", *(f"t,{name}" for name in names)])
    columns = ColumnsConfig(text="title", split="split")
    table = Table.open(write("t.csv", text), columns, reading=ReadingConfig(split_names={"holdout": "test"}))
    assert table.splits() == ["train", "train", "val", "val", "test", "test"]
    assert list(Table.open(write("t.csv", text), columns).bad) == [5]
