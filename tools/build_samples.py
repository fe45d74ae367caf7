"""Writes mmft/samples/clipart.parquet: the rows that `mmft train` takes when nothing else is named.

    python tools/build_samples.py --shared ../shared

Images, titles, categories, groups and splits of Open Clip Art (public domain), as `shared/data/clipart` has them;
an image's shorter side becomes 96 pixels, WebP. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from distill.held_out import read_clipart
from PIL import Image

SIDE = 96
QUALITY = 85
OUT = Path(__file__).parents[1] / "mmft" / "samples" / "clipart.parquet"
COLUMNS = ("id", "image", "title", "category", "group", "split")
SOURCE = "Open Clip Art Library 0.18, public domain; titles and categories as there"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder that has data/clipart/manifest.csv")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    clipart = read_clipart(given.shared)
    rows = [(r.id, small(Image.open(r.image)), r.title, r.label, r.group, r.split) for r in clipart]
    table = pa.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    # WebP and short words do not shrink any further; large row groups would be read whole for one row
    pq.write_table(table.replace_schema_metadata({"source": SOURCE}), given.out, compression="zstd", row_group_size=256)
    splits = Counter(r.split for r in clipart)
    print(f"{given.out}: {len(rows)} rows {dict(splits)}, {given.out.stat().st_size / 1e6:.2f} MB")


def small(image: Image.Image) -> bytes:
    """WebP bytes of the image with its shorter side at most 96 pixels, its shape kept."""
    rgb = image.convert("RGB")
    scale = min(1.0, SIDE / min(rgb.size))
    size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    out = io.BytesIO()
    rgb.resize(size, Image.Resampling.LANCZOS).save(out, "WEBP", quality=QUALITY, method=6)
    return out.getvalue()


if __name__ == "__main__":
    main()
