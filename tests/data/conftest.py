"""A tiny tokenizer, images and tables made on the spot."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mmft.config.schema.data import ColumnsConfig, DataConfig

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "green", "blue", "disc", "cross", "of", "title", "row"]
WORDS += [str(number) for number in range(100)]

ALL = ColumnsConfig(image="image", text="text", label="label", id="id", split="split", weight="weight", group="group")
"""Every column under its own name."""


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    vocab = {word: at for at, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture
def all_columns() -> ColumnsConfig:
    return ColumnsConfig(**vars(ALL))


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(image, format, **options)` -> the encoded bytes."""

    def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
        stream = io.BytesIO()
        image.save(stream, format, **options)
        return stream.getvalue()

    return encoded


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(name, rows)` -> a table file; `rows` are dicts, or the file's text or bytes."""

    def written(name: str, rows: Sequence[dict[str, Any]] | str | bytes) -> Path:
        path = tmp_path / name
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        elif isinstance(rows, str):
            path.write_bytes(rows.encode())
        elif path.suffix in (".jsonl", ".ndjson"):
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
        return path

    return written


@pytest.fixture
def config(tmp_path: Path, write: Callable[..., Path], encode: Callable[..., bytes]) -> DataConfig:
    """A table of 37 rows in three splits, with images; rows 3 (val) and 4 (train) are bad, row 5 has no
    image, row 6 no text.
    """
    rows: list[dict[str, Any]] = []
    for at in range(37):
        (tmp_path / f"{at}.png").write_bytes(encode(Image.new("RGB", (10 + at, 20), (at, 255 - at, 7))))
        split = "val" if at % 5 == 3 else "test" if at % 5 == 2 else "train"
        label = ["disc", "cross"][at % 2]
        rows.append({"image": f"{at}.png", "text": f"a red row {at}", "label": label, "id": f"r{at}", "split": split})
    (tmp_path / "3.png").write_bytes(b"no image")
    rows[4]["image"] = "nowhere.png"
    rows[5]["image"] = ""
    rows[6]["text"] = ""
    columns = ColumnsConfig(image="image", text="text", label="label", id="id", split="split")
    return DataConfig(path=str(write("rows.csv", rows)), columns=columns, batch_size=8)


@pytest.fixture
def untidy_table(shapes: Any, tmp_path: Path) -> Path:
    """Rows that lack an image or a text, one with a broken image, one without a label; with weights."""
    folder = tmp_path / "rows"
    shutil.copytree(shapes.folder, folder, ignore=shutil.ignore_patterns("*encoder*"))
    with (folder / "rows.csv").open() as stream:
        rows = [dict(row) for row in csv.DictReader(stream) if row["split"] == "train"][:40]
    for at, row in enumerate(rows):
        row["weight"] = str(1 + at % 3)
    rows[3]["image"] = rows[8]["image"] = rows[5]["text"] = rows[8]["text"] = ""
    rows[11]["label"] = ""
    (folder / rows[13]["image"]).write_bytes(b"no image")
    rows[17]["image"] = "lost.png"
    path = folder / "some.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
