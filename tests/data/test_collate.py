"""Shapes, types and masks of batches, from full ones to those without a good row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmft.batch import BadRow, Sample
from mmft.data.collate import Collate

IMAGE = torch.full((3, 4, 4), 9, dtype=torch.uint8)
BAD = Sample(7, bad=BadRow(7, "seven", "image", "empty file"))


def collate(longest: int | None = None) -> Collate:
    return Collate(5, np.array([2, 3], dtype=np.int32), longest, torch.tensor(0))


def sample(row: int, length: int | None = 3, image: bool = True) -> Sample:
    ids = None if length is None else torch.arange(10, 10 + length)
    return Sample(row, IMAGE if image else None, ids, torch.tensor(row), weight=row / 2)


def test_a_batch_of_everything() -> None:
    batch = collate()([sample(1), BAD, sample(2, None), sample(3, 9, image=False)])
    assert batch.pixel_values is not None
    assert (batch.pixel_values.shape, batch.pixel_values.dtype) == ((3, 3, 4, 4), torch.uint8)
    assert batch.pixel_values.is_contiguous()
    assert batch.pixel_values.amax((1, 2, 3)).tolist() == [9, 9, 0]
    assert (batch.input_ids.shape, batch.input_ids.dtype, batch.attention_mask.dtype) == (
        (3, 16),
        torch.int64,
        torch.bool,
    )
    assert batch.input_ids[0].tolist() == [10, 11, 12] + [5] * 13
    assert batch.input_ids[1, :3].tolist() == [2, 3, 5]
    assert batch.attention_mask.sum(1).tolist() == [3, 2, 9]
    assert batch.image_present.tolist() == [True, True, False]
    assert batch.text_present.tolist() == [True, False, True]
    assert (batch.row.tolist(), batch.weight.tolist()) == ([1, 2, 3], [0.5, 1.0, 1.5])
    assert batch.target is not None
    assert batch.target.tolist() == [1, 2, 3]
    assert batch.bad == (BAD.bad,)


@pytest.mark.parametrize("samples", [[], [BAD, BAD]])
def test_a_batch_without_a_good_row(samples: list[Sample]) -> None:
    batch = collate()(samples)
    assert (len(batch), batch.pixel_values, len(batch.bad)) == (0, None, len(samples))
    assert (batch.input_ids, batch.attention_mask) == (None, None)
    assert batch.target is not None
    assert (batch.target.shape, batch.target.dtype) == ((0,), torch.int64)
    assert (batch.row.dtype, batch.weight.dtype) == (torch.int64, torch.float32)
    assert list(batch.split(2)) == []


def test_identities_are_there_without_a_good_row() -> None:
    asked = Collate(5, np.array([2], dtype=np.int32), identity=torch.zeros(3, dtype=torch.int64))
    found = asked([BAD]).identity
    assert found is not None
    assert (found.shape, found.dtype) == ((0, 3), torch.int64)  # or another rank's rows do not fit to these


def test_without_images_there_are_no_pixels() -> None:
    assert collate()([sample(1, image=False)]).pixel_values is None


@pytest.mark.parametrize(
    ("length", "longest", "padded"), [(1, None, 8), (8, None, 8), (9, None, 16), (73, 77, 77), (9, 77, 16)]
)
def test_texts_are_padded_to_a_multiple_of_eight_that_the_model_can_take(
    length: int, longest: int | None, padded: int
) -> None:
    assert collate(longest)([sample(1, length)]).input_ids.shape == (1, padded)
