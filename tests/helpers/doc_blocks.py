"""The code blocks of README.md and docs/, as a reader would type them in a folder of small stand-ins."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

BLOCK = re.compile(
    r"^(<!-- (?P<mark>tested: .*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

STAND_INS = {
    "timm/vit_small_patch14_dinov2.lvd142m": "image_encoder",
    "timm/vit_small_patch14_dinov2": "image_encoder",
    "timm/vit_base_patch16_clip_224": "./image_encoder",  # another name, for a sweep over both
    "facebook/dinov2-small": "image_encoder",
    "hf/sentence-transformers/all-MiniLM-L6-v2": "text_encoder",
    "all-MiniLM-L6-v2": "text_encoder",
    "hf/bert-base-uncased": "text_encoder",
    "openai/clip-vit-base-patch32": "pair",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "language_model",
    "HuggingFaceTB/SmolVLM-256M-Instruct": "whole_model",
}
"""Hub names of the pages, and the folders that stand in for them, since no test meets a network."""

RUN = "runs/mine/2026-11-22_10-00-00"
"""The finished run that commands name by a date."""

SMALLER = {"tune.layers=3": "tune.layers=1", "data.subset.rows=200": "data.subset.rows=20"}
"""What suits the pages' rows and encoders, and what suits the stand-ins."""

_ANY_RUN = re.compile(r"runs/\w+/(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d|\.\.\.)")

ROWS = "data.path=rows.csv data.columns.split=split"
COLUMNS = "data.columns.image=image data.columns.text=text data.columns.label=label"
ENCODERS = "model.image_encoder.name=image_encoder model.text_encoder.name=text_encoder"
SIZES = "model.image_encoder.image_size=32 model.text_encoder.max_length=16"
"""What `...` stands for on the pages; a key that the command has itself is left out."""

GENERATION = (
    "task=generation model/fusion=projector data.path=rows.csv data.columns.image=image data.columns.text=question "
    "data.columns.label=answer model.image_encoder.name=image_encoder model.text_encoder.name=language_model"
)
"""What it stands for on the page of language models."""


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: its file, relative to the checkout.
        mark: what the comment above it says, or an empty string.
        language: `sh`, `python`, ...
        text: as it stands.
    """

    page: str
    mark: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    name = page.relative_to(CHECKOUT).as_posix()
    return [
        Block(name, one["mark"] or "", one["language"], one["text"]) for one in BLOCK.finditer(page.read_text("utf-8"))
    ]


def lines(block: Block) -> Iterator[str]:
    """The commands of a shell block, each on one line, without comments."""
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        if command := re.sub(r"\s+(#.*|\((?:the|a) .*\))$", "", line).strip():
            yield command


def stood_in(text: str) -> str:
    """A text with folders in place of hub names, and the finished run in place of dated ones."""
    for name in sorted(STAND_INS, key=len, reverse=True):
        text = re.sub(rf"(?<![\w/.-]){re.escape(name)}(?![\w.-])", STAND_INS[name], text)
    return _ANY_RUN.sub(lambda one: "last" if one[1] == "..." else RUN, text)


def words(line: str, page: str) -> list[str]:
    """The arguments of `mmft` in a command, with everything that the page leaves to the reader filled in."""
    typed = [SMALLER.get(one, one) for one in shlex.split(stood_in(line).partition("mmft ")[2])]
    left = [one for one in typed if one in ("...", "experiment=mine")]
    typed = [one for one in typed if one not in left]
    filled = GENERATION.split() if page == "docs/language_models.md" else _own_rows(typed)
    return typed + [one for one in filled if not _given(one, typed)] if left else typed


def _own_rows(typed: list[str]) -> list[str]:
    """Rows and encoders for a command that does not name its own."""
    whole = any(one.startswith(("model.pair=", "model.whole=")) for one in typed)
    rows = [] if any(one.startswith("data.train=") for one in typed) else ROWS.split()
    return [*rows, *COLUMNS.split(), *([] if whole else [*ENCODERS.split(), *SIZES.split()])]


def _given(override: str, typed: list[str]) -> bool:
    """Whether a command has a key already."""
    return any(one.partition("=")[0] == override.partition("=")[0] for one in typed)


def write_tables(folder: Path, rows: Path) -> None:
    """Every table that the pages name, made of the rows of the shapes sample under the pages' column names."""
    source = list(csv.DictReader(rows.read_text().splitlines()))[::4]
    for number, row in enumerate(source):
        colour, kind = row["label"].split()
        row |= {"title": row["text"], "category": row["label"], "question": "what is it", "answer": row["label"]}
        row |= {"name": kind, "material": colour, "kind": kind, "price": str(number % 7), "rating": str(number % 5)}
        row |= {"caption": row["text"]}
    parts = {"rows": source, "photos": source, "val": source[1::2], "a": source[::2], "b": source[1::2]}
    for name, some in parts.items():
        _write(folder / f"{name}.csv", list(source[0]), some)
    _write(folder / "new.csv", ["image", "text", "question", "title"], source)
    _write(folder / "wanted.csv", ["image", "text"], source[:3])
    for name in ("heart.png", "sunset.jpg"):
        (folder / name).write_bytes(next((rows.parent / "images").iterdir()).read_bytes())


def _write(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
