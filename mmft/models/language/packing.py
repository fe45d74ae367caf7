"""Rows of different lengths side by side in few sequences, so that a language model reads no padding between them.

Rows are told apart by their positions alone: each begins at 0, and transformers lets no token see one of another row,
also in layers with a sliding window (`find_packed_sequence_indices`). It does so without an attention mask and without
a cache only, and not for every model: `LanguageModel.start_packing` tries it.

Legend: B rows, L tokens of a padded row, P sequences, S tokens of a sequence, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

USUAL_LENGTH = 512
"""Tokens of a sequence if no row is longer: enough to leave little padding, and attention stays cheap."""


class Packing(NamedTuple):
    """Where the tokens of P sequences come from; padding is on the right."""

    source: Tensor  # (P, S) int64 places in the flattened (B, L); -1 for padding
    positions: Tensor  # (P, S) int64, from 0 on in each row; 0 for padding

    def pack(self, rows: Tensor) -> Tensor:
        """(B, L, ...) -> (P, S, ...); padding is the first place."""
        return rows.flatten(0, 1)[self.source.clamp_min(0)]

    def rows(self, length: int) -> Tensor:
        """(B,) the rows in the order of their tokens, of L = `length` places each."""
        found: Tensor = (self.source[self.source >= 0] // length).unique_consecutive()
        return found

    def unpack(self, sequences: Tensor, like: Tensor) -> Tensor:
        """(P, S, D) -> (B, L, D), B and L those of `like`, zeros at places that are in no sequence."""
        real = self.source >= 0  # (P, S)
        flat = sequences.new_zeros(like.shape[0] * like.shape[1], sequences.shape[2])
        return flat.index_copy(0, self.source[real], sequences[real]).view(*like.shape[:2], -1)


def counted(mask: Tensor, behind: int = 0) -> Tensor:
    """(B, L + behind) int64 positions from 0 on of the real tokens of rows (B, L), and of tokens behind them."""
    real = torch.cat([mask, mask.new_ones(len(mask), behind)], dim=1)
    return (real.long().cumsum(1) - 1).clamp_min(0)


def plan_packing(mask: Tensor, longest: int, usual: int = USUAL_LENGTH) -> Packing:
    """The packing of rows, a pure function of their lengths.

    Args:
        mask: (B, L) bool, True = real token; their order in a row is kept.
        longest: tokens of a sequence at most, and of any row.
        usual: tokens of a sequence if no row is longer.
    """
    lengths: list[int] = mask.sum(1).tolist()
    capacity = max(min(usual, longest), *lengths)
    places = mask.flatten().nonzero().squeeze(1)  # (T,)
    positions = counted(mask).flatten()[places]  # (T,)
    sequences = first_fit(lengths, capacity)
    source, position = (
        [torch.cat([part[row] for row in rows]) for rows in sequences]
        for part in (places.split(lengths), positions.split(lengths))
    )
    return Packing(pad_sequence(source, True, -1), pad_sequence(position, True, 0))


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """The rows of each sequence, by first fit decreasing: the longest rows first, each where it fits first.

    >>> first_fit([3, 8, 5, 2], capacity=8)
    [[1], [2, 0], [3]]

    Args:
        lengths: tokens of each row, at most `capacity`.
        capacity: tokens of a sequence.
    """
    sequences: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        fits = next((at for at, left in enumerate(room) if left >= lengths[row]), None)
        if fits is None:
            sequences.append([row])
            room.append(capacity - lengths[row])
        else:
            sequences[fits].append(row)
            room[fits] -= lengths[row]
    return sequences
