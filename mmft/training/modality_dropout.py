"""Modality dropout: in training, a row's image or text is sometimes treated as missing.

This trains the stand-ins for missing inputs, and the model learns to work with either modality alone (ModDrop, Neverova
et al. 2015, arXiv 1501.00102). What is dropped is a function of (seed, optimizer step, row number), so micro-batches,
ranks and resuming change nothing. Data workers are unaware of it, and evaluation sees the rows unchanged.

Legend: B rows of this rank's share of a logical batch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from mmft.batch import Batch


def drop_modalities(batch: Batch, probability: float, seed: int, step: int) -> Batch:
    """Returns the batch with one modality of some rows treated as missing.

    A row that has both loses one with `probability`, image or text with equal chance, never both; a row with one keeps
    it. A row that occurs twice in a step (`data.sampler=balanced`) loses the same one both times.

    Args:
        batch: this rank's share of the logical batch; not changed.
        probability: 0 returns the batch itself.
        seed: the run's.
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
    """Row numbers (B,) int64 -> (B,) float64 in [0, 1), one per (seed, step, row), on the rows' device.

    SplitMix64 (Steele et al. 2014), started by numpy's SeedSequence: integer arithmetic, so the same on every device
    and without a GPU sync.
    """
    state = np.random.SeedSequence([seed, step, _PURPOSE]).generate_state(1, np.uint64)
    mixed = int(state.view(np.int64)[0]) + (row + 1) * _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(mixed ^ _shifted(mixed, 31), 11).double() * 2.0**-53


_PURPOSE = int.from_bytes(b"drop", "big")  # where `seed_dropout` has the rank


def _signed(word: int) -> int:
    """64 bits as torch's int64, whose products wrap like unsigned ones."""
    return word - 2**64 if word >= 2**63 else word


def _shifted(words: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's own copies the sign bit."""
    return (words >> by) & ((1 << (64 - by)) - 1)
