r"""Leaves out rows whose image DINOv2 takes for one of the clip-art sample, and computes the features of all others.

    python tools/pair/apart.py OUT/apart --rows OUT/rows.parquet --clipart ../shared/data/clipart \
        --image-encoder ../shared/encoders/dinov2-small

rows.py compares images by hash, which a redrawn, recoloured or shifted copy escapes. Here the cosine of two class
tokens decides. Writes OUT/apart.parquet, a part of the rows, and OUT/apart.npy: the class token of each of its images,
float32 (N, D), in the order of first rows.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import transformers as hf
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).parents[1]))

from distill.held_out import read_clipart

from pair.images import SIDE
from pair.vision import half_precision, load, processor

NEAR = 0.95  # the cosine of what may be a copy
BATCH = 64


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--clipart", type=Path, required=True, help="folder of the clip-art rows' manifest.csv")
    parser.add_argument("--image-encoder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    encoder = load(given.image_encoder).eval()
    table = pq.read_table(given.rows)
    groups = table["group"].to_pylist()
    first = first_rows(groups)
    features = class_tokens(encoder, table["image"].take(list(first.values())).to_pylist())
    sample = [row.image.read_bytes() for row in read_clipart(given.clipart.parents[1])]
    alone = apart(features, class_tokens(encoder, sample))
    kept = {group for group, is_alone in zip(first, alone.tolist(), strict=True) if is_alone}
    numbers = [n for n, group in enumerate(groups) if group in kept]
    pq.write_table(table.take(numbers), given.out.with_suffix(".parquet"), compression="zstd", row_group_size=1024)
    np.save(given.out.with_suffix(".npy"), features[alone].numpy())
    print(f"{len(kept)} of {len(first)} images, {len(numbers)} of {len(groups)} rows")


def first_rows(groups: Sequence[str]) -> dict[str, int]:
    """The number of the first row of each group, in the order of rows."""
    first: dict[str, int] = {}
    for number, group in enumerate(groups):
        first.setdefault(group, number)
    return first


@torch.inference_mode()
def class_tokens(encoder: hf.Dinov2Model, images: Sequence[bytes]) -> Tensor:
    """(N, D) float32: the class token of each image, squashed to a square, after the last norm."""
    prepared = hf.ViTImageProcessor.from_dict(processor(SIDE))
    out = []
    for begin in range(0, len(images), BATCH):
        opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in images[begin : begin + BATCH]]
        pixels = prepared(opened, return_tensors="pt")["pixel_values"]
        with half_precision():
            out.append(encoder(pixel_values=pixels).pooler_output.float())
    return torch.cat(out)


def apart(features: Tensor, sample: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N,) bool: whether an image is near none of the sample."""
    return (normalize(features, dim=-1) @ normalize(sample, dim=-1).T).amax(-1) <= NEAR


if __name__ == "__main__":
    main()
