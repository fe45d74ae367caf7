"""The rows and the encoders that every peer gets, as folders."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

from safetensors.torch import load_file, save_file

SPLITS = ("train", "val", "test")
COLUMNS = ("id", "image", "title", "label")


def write_rows(manifest: Path, out: Path, distinct: bool, limit: int | None) -> Path:
    """Writes `train.csv`, `val.csv` and `test.csv` with the columns id, image (an absolute path), title and label.

    Args:
        manifest: a table with these columns and `split`; its image paths are relative to its folder.
        out: the folder.
        distinct: leave out rows whose title is another row's, too.
        limit: at most so many training rows, and as large a share of the other splits, spread over the table.

    Returns:
        The folder.
    """
    rows = _read(manifest)
    titles = Counter(row["title"] for row in rows)
    by_split = {
        split: [row for row in rows if row["split"] == split and not (distinct and titles[row["title"]] > 1)]
        for split in SPLITS
    }
    share = min(1.0, limit / len(by_split["train"])) if limit else 1.0
    out.mkdir(parents=True, exist_ok=True)
    for split, of_split in by_split.items():
        count = max(1, round(share * len(of_split)))
        with (out / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            for number in range(count):
                row = of_split[number * len(of_split) // count]
                writer.writerow({**row, "image": (manifest.parent / row["image"]).resolve()})
    return out


def read(folder: Path, split: str) -> list[dict[str, str]]:
    """The rows of a split that `write_rows` has written."""
    return _read(folder / f"{split}.csv")


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_encoder(folder: Path, out: Path) -> Path:
    """Copies an encoder's folder with its weights in float32, as hubs hold them, unless it has been copied.

    Some peers would train in the 16 bits of the shared folders, others refuse them.
    """
    if not out.exists():
        made = out.with_name(out.name + ".part")
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(folder, made, copy_function=shutil.copyfile)
        made.chmod(0o755)
        weights = load_file(made / "model.safetensors")
        wide = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
        save_file(wide, made / "model.safetensors", metadata={"format": "pt"})
        made.rename(out)
    return out
