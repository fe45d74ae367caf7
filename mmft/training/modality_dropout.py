"""Modality dropout: in training a row's image or its text is taken for absent, now and then.

So the stand-ins for what is missing are trained, and the model learns to do with either alone (ModDrop, Neverova et al.
2015, arXiv 1501.00102). What is absent is chosen on the logical batch, as a function of (seed, optimizer step, row
number): micro-batches, ranks and a resumption change nothing. The data workers know nothing of it, and evaluation
sees the rows as they are.

Legend: B rows of this rank's share of a logical batch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from mmft.batch import Batch


def drop_modalities(batch: Batch, probability: float, seed: int, step: int) -> Batch:
    """The batch with one modality of some rows taken for absent.

    A row that has both loses one with `probability`, its image or its text with half of it each, never both; a row
    that has one keeps it. A row that comes twice in a step (`data.sampler=balanced`) loses the same both times.

    Args:
        batch: this rank's share of the logical batch; is not changed.
        probability: 0 gives the batch itself.
        seed: of the run.
        step: the optimizer step, from 0.
    """
    if not probability:
        return batch
    chance = row_chances(batch.row, seed, step)
    both = batch.image_present & batch.text_present
    lost = both & (chance < probability)
    no_image = lost & (chance < probability / 2)
    no_text = lost & ~no_image
    return replace(batch, image_present=batch.image_present & ~no_image, text_present=batch.text_present & ~no_text)


def row_chances(row: Tensor, seed: int, step: int) -> Tensor:
    """Row numbers (B,) int64 -> (B,) float64 in [0, 1), one for each (seed, step, row), on the rows' own device.

    SplitMix64 (Steele et al. 2014) with a start that numpy's SeedSequence draws: whole numbers only, so the same on
    every device, and without waiting for a GPU.
    """
    state = np.random.SeedSequence([seed, step, _PURPOSE]).generate_state(1, np.uint64)
    mixed = int(state.view(np.int64)[0]) + (row + 1) * _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(mixed ^ _shifted(mixed, 31), 11).double() * 2.0**-53


_PURPOSE = int.from_bytes(b"drop", "big")  # in the place of the rank, which `seed_dropout` has there


def _signed(word: int) -> int:
    """64 bits as torch's int64, whose products wrap as those of unsigned numbers do."""
    return word - 2**64 if word >= 2**63 else word


def _shifted(words: Tensor, by: int) -> Tensor:
    """The logical shift to the right; torch's own drags the sign along."""
    return (words >> by) & ((1 << (64 - by)) - 1)
