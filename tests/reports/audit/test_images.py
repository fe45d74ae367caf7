"""Perceptual hashes: what is the same image to the eye is near, what is another one is far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from drawings import drawing, encoded
from make_shapes import Shapes
from PIL import Image

from mmft.config.schema.data import ColumnsConfig
from mmft.data.images.image import ImageReader
from mmft.data.splitting.splits import Split, whole
from mmft.data.table import Table
from mmft.reports.audit.duplicates import LEVELS
from mmft.reports.audit.images import hamming, nearest_images, perceptual_hash, scan

BITS = 24
READER = ImageReader(96, "squash", "white", 10**8)


def rows(images: list[bytes | str | None]) -> Split:
    return whole(Table.from_rows([{"p": p, "t": "x"} for p in images], ColumnsConfig(image="p", text="t"), Path()))


def distance(one: bytes, other: bytes) -> int:
    hashes = [perceptual_hash(READER(data))[None] for data in (one, other)]
    return int(hamming(*hashes)[0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_a_hash_survives_compression_and_scaling_and_tells_others_apart(seed: int) -> None:
    image = drawing(seed)
    plain = encoded(image)
    assert distance(plain, encoded(image, "JPEG", quality=60)) <= BITS
    assert distance(plain, encoded(image.resize((150, 140), Image.Resampling.BICUBIC), "WEBP", quality=80)) <= BITS
    assert distance(plain, encoded(drawing(seed + 100))) > 2 * BITS


def test_distances_are_those_of_the_bits() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.integers(0, 256, (7, 32), np.uint8), generator.integers(0, 256, (5, 32), np.uint8)
    expected = [[sum(int(a ^ b).bit_count() for a, b in zip(x, y, strict=True)) for y in right] for x in left]
    assert hamming(left, right).tolist() == expected


def test_the_nearest_one_of_another_split_is_found() -> None:
    train = rows([encoded(drawing(seed)) for seed in range(20)])
    red, blue = (encoded(Image.new("RGB", (50, 50), colour)) for colour in ("red", "blue"))
    hue = drawing(3)
    recoloured = Image.merge("RGB", (hue.getchannel(2), hue.getchannel(0), hue.getchannel(1)))
    val = rows([encoded(drawing(7), "JPEG", quality=70), encoded(drawing(50)), red, encoded(recoloured), None])
    prints = [scan(split, READER, (), 0, lambda _: None) for split in (val, train)]
    assert [(at, other) for at, other, _ in nearest_images(*prints, BITS, LEVELS)] == [(0, 7)]
    assert prints[0].blank.tolist() == [False, False, True, False, False]
    assert scan(rows([red, blue]), READER, (), 0, lambda _: None).digests[0] != prints[0].digests[1]


def test_a_scan_reads_as_training_does(shapes: Shapes) -> None:
    table = Table.open(shapes.rows, ColumnsConfig(image="image", text="text"))
    split = Split(table, np.arange(6))
    done: list[int] = []
    prints = scan(split, READER, {2}, 0, done.append)
    assert sum(done) == 6
    assert (prints.sides > 0).tolist() == [at != 2 and table.image(at) is not None for at in range(6)]
    broken = scan(rows([b"no image", encoded(drawing(0))]), READER, (), 0, lambda _: None)
    assert [(row.row, row.column) for row in broken.bad] == [(0, "p")]
    workers = scan(split, READER, {2}, 2, lambda _: None)
    assert workers.digests == prints.digests
    assert torch.equal(torch.from_numpy(workers.bits), torch.from_numpy(prints.bits))
