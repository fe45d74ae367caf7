"""Shards: what is read is what was written, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmft.cache.shard import KEY, Column, DamagedError, Shard, keys_of, write_shard

R = 5
LENGTHS = [3, 1, 8, 2, 5]
COLUMNS = [Column("float32", (4,), True), Column("bfloat16", (2, 3), False)]


def digests() -> list[bytes]:
    return [bytes([n]) * KEY for n in range(R)]


def values() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randn(length, 4, generator=generator) for length in LENGTHS]
    return [tokens, [torch.randn(2, 3, generator=generator).bfloat16() for _ in range(R)]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_shard(tmp_path, digests(), LENGTHS, COLUMNS, values())


def _bytes(out: list[torch.Tensor]) -> list[Any]:
    """The memory of tensors, (B, bytes of a row) each."""
    return [values.view(torch.uint8).numpy().reshape(len(values), -1) for values in out]


def test_rows_come_back_in_any_order_and_padded_with_zeros(path: Path) -> None:
    shard = Shard(path)
    assert shard.keys.tolist() == digests()
    assert keys_of(digests()).tolist() == digests()
    assert shard.columns == COLUMNS
    out = [torch.zeros(3, 8, 4), torch.zeros(3, 2, 3, dtype=torch.bfloat16)]
    shard.read_into(_bytes(out), np.array([2, 0]), np.array([4, 1]))
    tokens, others = values()
    assert torch.equal(out[0][2, :5], tokens[4])
    assert not out[0][2, 5:].any()
    assert torch.equal(out[0][0, :1], tokens[1])
    assert torch.equal(out[1][[2, 0]], torch.stack([others[4], others[1]]))
    assert not out[0][1].any()
    assert all(shard.is_sound(row) for row in range(R))


def test_every_flipped_byte_is_noticed(path: Path) -> None:
    """In the index the shard is not opened; in the values that row, and no other, is damaged."""
    whole, tokens = path.read_bytes(), values()
    index = whole.rfind(tokens[0][0].numpy().tobytes())
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            shard = Shard(path)
        except DamagedError:
            assert at < index
            continue
        sound = [shard.is_sound(row) for row in range(R)]
        out = [torch.zeros(R, 8, 4), torch.zeros(R, 2, 3, dtype=torch.bfloat16)]
        shard.read_into(_bytes(out), np.arange(R), np.arange(R))
        same = [
            torch.equal(out[0][row, :length], tokens[0][row]) and torch.equal(out[1][row], tokens[1][row])
            for row, length in enumerate(LENGTHS)
        ]
        assert sound == same
        assert sound.count(False) <= 1


@pytest.mark.parametrize("size", [0, 5, 40, 200, -1])
def test_a_file_that_is_cut_short_is_not_opened(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedError):
        Shard(path)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path, digests(), LENGTHS, COLUMNS, values())
    assert list(tmp_path.iterdir()) == []


def test_long_rows_are_copied_one_by_one(tmp_path: Path) -> None:
    """Above the size from which they are, with others in the batch that are not there."""
    rows = [torch.randn(40, 80) for _ in range(5)]
    texts = [torch.randn(length, 2500) for length in (1, 3, 2, 1, 3)]
    columns = [Column("float32", (40, 80), ragged=False), Column("float32", (2500,), ragged=True)]
    shard = Shard(write_shard(tmp_path, digests()[:5], [len(one) for one in texts], columns, [rows, texts]))
    out = [torch.full((4, 40, 80), 7.0), torch.full((4, 3, 2500), 7.0)]
    shard.read_into(_bytes(out), np.array([3, 0, 2]), np.array([1, 0, 4]))
    for place, row in ((3, 1), (0, 0), (2, 4)):
        assert torch.equal(out[0][place], rows[row])
        assert torch.equal(out[1][place, : len(texts[row])], texts[row])
        assert not out[1][place, len(texts[row]) :].any()
    assert bool((out[0][1] == 7).all())
