"""Damaged tables: every row that is read is one of the original rows, in order, with nothing of another row in it.

Each field of an original row carries the row's mark, a word that no small damage turns into another row's.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.damage import Damage, changed, cut, emptied, flipped, other, random_bytes, zeroed
from fuzz.outcome import Case, Wrong, check_clear, generator
from mmft.config.schema.data import ColumnsConfig
from mmft.data.table import Table

SECONDS = 20.0
ROWS = 30
COLUMNS = ColumnsConfig(image="image", text="text", label="label", id="id", split="split", group="group")
_NAMES = ("id", "image", "text", "label", "split", "group")
_MARK = re.compile(r"k[0-9a-f]{10}")
_MARKS = [f"k{hashlib.sha256(str(row).encode()).hexdigest()[:10]}" for row in range(ROWS)]
_TEXTS = ("plain", "with, comma", 'with "quotes"', "two\nlines", "é, 猫, 🐈", "tab\there", "semi; pipe | end", "it's")
Row = dict[str, Any]
Records = list[list[Any]]


def cases(count: int, first: int, seed: int, folder: Path) -> Iterator[Case]:
    """`count` damaged tables from number `first` on."""
    for number in range(first, first + count):
        random = generator(seed, "tables", number)
        suffix = random.choice((".csv", ".csv", ".tsv", ".jsonl", ".parquet"))
        data, how = _damaged(suffix, random)
        rows = ROWS if how in ("quotes", "quoted_starts") else None
        if random.random() < 0.03:
            suffix, how = random.choice((".csv", ".tsv", ".jsonl", ".parquet", ".txt", "")), how + ", other suffix"
            rows = None
        yield Case(number, f"{suffix} {how}", partial(_read, folder / f"{number}{suffix}", data, rows))


def _read(path: Path, data: bytes, rows: int | None) -> str:
    path.write_bytes(data)
    try:
        table = Table.open(path, COLUMNS, optional=("id", "split", "group", "label", "image"))
        check_clear(bad.why for bad in table.bad.values())
        if rows not in (None, len(table)):
            raise Wrong(f"{len(table)} rows of {rows} lines with a record each")
        return _check(table)
    finally:
        path.unlink()


def _check(table: Table) -> str:
    """Raises `Wrong` if a row has fields of several rows, or rows are not in order."""
    rows, last = np.arange(len(table)), -1
    ids, texts, labels, groups = (
        table.ids(),
        table.texts(rows),
        table.labels(rows),
        table.groups() or [None] * len(rows),
    )
    table.splits()
    for row in rows.tolist():
        fields = [ids[row], texts[row], table.image(row), labels[row], groups[row]]
        if row in table.bad:
            continue
        found = {_MARKS.index(mark) for field in fields for mark in _MARK.findall(str(field)) if mark in _MARKS}
        if len(found) > 1:
            raise Wrong(f"row {row} has fields of the rows {sorted(found)}: {fields}")
        if found and min(found) <= last:
            raise Wrong(f"row {row} is the original's {min(found)}, which comes after {last}")
        last = max(found, default=last)
    return "bad rows" if table.bad else "read"


# ---------------------------------------------------------------- originals


@cache
def originals() -> tuple[Row, ...]:
    """The undamaged rows."""
    return tuple(
        {
            "id": f"id {mark}",
            "image": f"images/{mark}.png",
            "text": f"{mark} {_TEXTS[row % len(_TEXTS)]} {mark}",
            "label": f"label {mark}",
            "split": ("train", "val", "test")[row % 3],
            "group": f"group {mark}",
        }
        for row, mark in enumerate(_MARKS)
    )


def _encoded(suffix: str, rows: list[Row], random: Random) -> bytes:
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=random.random() < 0.5) + "\n" for row in rows).encode(
            errors="surrogatepass"
        )
    if suffix == ".parquet":
        return _parquet(rows, random)
    return _delimited([list(row.values()) for row in rows], "\t" if suffix == ".tsv" else ",", random)


def _delimited(records: Records, separator: str, random: Random, header: list[Any] | None = None) -> bytes:
    stream = io.StringIO()
    quoting: Literal[0, 1] = csv.QUOTE_ALL if random.random() < 0.3 else csv.QUOTE_MINIMAL
    writer = csv.writer(stream, delimiter=separator, lineterminator=random.choice(("\n", "\r\n")), quoting=quoting)
    writer.writerows([header or list(_NAMES), *records])
    return stream.getvalue().encode(errors="surrogatepass")


def _parquet(rows: list[Row], random: Random) -> bytes:
    """With checksums of the pages, without which a changed byte may be a good value of another row."""
    stream = io.BytesIO()
    table = pa.table({name: _arrow([row.get(name) for row in rows]) for name in _NAMES})
    pq.write_table(
        table,
        stream,
        compression=random.choice(("NONE", "snappy", "zstd")),
        use_dictionary=random.random() < 0.5,
        row_group_size=random.choice((7, 1000)),
        write_page_checksum=True,
    )
    return stream.getvalue()


def _arrow(values: list[Any]) -> pa.Array:
    """A column of any values: as text if Arrow has no type for them, which need not be Unicode."""
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        return pa.array([str(value).encode(errors="surrogatepass") for value in values]).view(pa.string())


# ---------------------------------------------------------------- damage


def _damaged(suffix: str, random: Random) -> tuple[bytes, str]:
    """A file's bytes, and how they were damaged."""
    of_rows = random.random() < 0.5
    if not of_rows:
        return other(_encoded(suffix, list(originals()), random), random, _OF_BYTES)
    damage = random.choice(_OF_ROWS if suffix in (".jsonl", ".parquet") else (*_OF_ROWS, *_OF_TEXT))
    return damage(suffix, random), damage.__name__


_OF_BYTES: tuple[Damage, ...] = (changed, changed, flipped, cut, zeroed, emptied, random_bytes)
_VALUES: tuple[Any, ...] = (
    *(
        "",
        " ",
        "nan",
        "NULL",
        "None",
        "1e999",
        "-0",
        "[1, 2]",
        "{}",
        "true",
        "2026-01-01",
        "\0",
        "\ud800",
        "\x1a",
        "=1+1",
    ),
    *("x" * 200_000, '"', '""', "'", "\\", "\u2028", "\r", "\ufeff", "../../../etc/passwd", "https://a/b.png", "#"),
)
_TYPED: tuple[Any, ...] = (None, 0, -1, 2**70, 1.5, True, [], [1, "a"], {"a": 1}, {"a": {"b": None}}, ["x"] * 50)


def types(suffix: str, random: Random) -> bytes:
    """Up to ten fields hold something else."""
    rows = [dict(row) for row in originals()]
    for _ in range(random.randint(1, 10)):
        values = _VALUES + _TYPED if suffix in (".jsonl", ".parquet") else _VALUES
        random.choice(rows)[random.choice(_NAMES)] = random.choice(values)
    return _encoded(suffix, rows, random)


def column(suffix: str, random: Random) -> bytes:
    """A whole column holds something else."""
    name = random.choice(_NAMES)
    value = random.choice(_VALUES + _TYPED if suffix in (".jsonl", ".parquet") else _VALUES)
    return _encoded(suffix, [{**row, name: value} for row in originals()], random)


def rows_cut(suffix: str, random: Random) -> bytes:
    """Rows are missing."""
    return _encoded(suffix, [row for row in originals() if random.random() < 0.5], random)


def fields_missing(suffix: str, random: Random) -> bytes:
    """A column is missing."""
    name = random.choice(_NAMES)
    kept = [{key: value for key, value in row.items() if key != name} for row in originals()]
    if suffix in (".csv", ".tsv"):
        header: list[Any] = [key for key in _NAMES if key != name]
        return _delimited([list(row.values()) for row in kept], "\t" if suffix == ".tsv" else ",", random, header)
    return _encoded(suffix, kept, random)


def quotes(suffix: str, random: Random) -> bytes:
    """One row has one to three more quotes."""
    lines = _lines(suffix, random)
    at = random.randrange(1, len(lines))
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + random.choice(('"', '"', "'", '""')) + lines[at][place:]
    return _joined(lines, random)


def quoted_starts(suffix: str, random: Random) -> bytes:
    """Fields begin or end with a quote that is a part of them."""
    separator = "\t" if suffix == ".tsv" else ","
    lines = _lines(suffix, random)
    for at in random.sample(range(1, len(lines)), random.randint(1, 4)):
        fields = lines[at].split(separator)
        place = random.randrange(len(fields))
        fields[place] = random.choice(('"{}', '{}"', '"{}" x', '5" {}')).format(fields[place])
        lines[at] = separator.join(fields)
    return _joined(lines, random)


def encodings(suffix: str, random: Random) -> bytes:
    """The text is not in UTF-8."""
    text = _encoded(suffix, list(originals()), random).decode()
    name = random.choice(
        ("utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1", "gb18030", "utf-8-sig", "shift-jis", "utf-7")
    )
    return text.encode(name, errors="replace")


def separators(suffix: str, random: Random) -> bytes:
    """The separator is another, or has blanks around it."""
    lines = _lines(suffix, random)
    old, new = "\t" if suffix == ".tsv" else ",", random.choice((";", "|", "\t", ", ", " , ", "\x1f", "  ", ","))
    return _joined([line.replace(old, new) for line in lines], random)


def ragged(suffix: str, random: Random) -> bytes:
    """Rows have too many or too few fields; lines are blank."""
    lines, separator = _lines(suffix, random), "\t" if suffix == ".tsv" else ","
    for _ in range(random.randint(1, 5)):
        at = random.randrange(1, len(lines))
        ends: list[Callable[[str], str]] = [
            lambda line: line + separator,
            lambda line: line + separator * 3 + "more",
            lambda line: line.rpartition(separator)[0],
            lambda line: separator + line,
            lambda _: "",
            lambda _: "   ",
            lambda _: separator * 5,
        ]
        lines[at] = random.choice(ends)(lines[at])
    return _joined(lines, random)


def header(suffix: str, random: Random) -> bytes:
    """The header is another: a name twice, blank, quoted, in capitals, moved or missing."""
    lines = _lines(suffix, random)
    changes: list[Callable[[str], str]] = [
        lambda line: line.replace("group", "text"),
        lambda line: line.replace("label", ""),
        lambda line: line.upper(),
        lambda line: line.replace("text", '"text'),
        lambda line: line.replace("text", " text "),
        lambda line: "\ufeff\ufeff" + line,
        lambda line: "# a comment\n" + line,
        lambda line: "\n\n" + line,
        lambda _: "",
    ]
    lines[0] = random.choice(changes)(lines[0])
    return _joined(lines, random)


def _lines(suffix: str, random: Random) -> list[str]:
    """One line for each record, the header first."""
    rows = [{**row, "text": row["text"].replace("\n", " ")} for row in originals()]
    return _encoded(suffix, rows, random).decode().splitlines()


def _joined(lines: list[str], random: Random) -> bytes:
    end = random.choice(("\n", "\n", "\r\n", "\r"))
    return (end.join(lines) + random.choice((end, ""))).encode()


_OF_ROWS = (types, types, column, rows_cut, fields_missing)
_OF_TEXT = (quotes, quotes, quoted_starts, quoted_starts, encodings, separators, ragged, header)
