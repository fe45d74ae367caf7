"""The clip-art rows that nothing may be learnt from: the sample's val and test splits."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClipArt:
    """One row of ../shared/data/clipart/manifest.csv."""

    id: str
    image: Path
    title: str
    label: str
    split: str
    group: str


def read_clipart(shared: Path) -> list[ClipArt]:
    """The rows of `shared/data/clipart/manifest.csv`, in their order."""
    folder = shared / "data" / "clipart"
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [
            ClipArt(r["id"], folder / r["image"], r["title"], r["label"], r["split"], r["group"])
            for r in csv.DictReader(file)
        ]


def held_out(rows: list[ClipArt]) -> list[ClipArt]:
    """The rows of val and test."""
    return [row for row in rows if row.split != "train"]
