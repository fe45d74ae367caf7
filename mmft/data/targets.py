"""Encodes the labels of a split once, before training: targets for good rows, reasons for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmft.batch import BadRow
from mmft.config.schema.data import names_of
from mmft.data.splits import Split

Encode = Callable[[Any], Any]
"""A task's `encode(label)`: what `torch.as_tensor` takes; raises `ValueError(reason)`."""

ClassesOf = Callable[[Tensor], Tensor | None]
"""A task's `classes(targets)`: (R, ...) targets -> (R,) int64 classes; None: the task has none."""


def encode_targets(split: Split, encode: Encode) -> tuple[Tensor | None, dict[int, BadRow]]:
    """Targets by position.

    Args:
        split: the rows.
        encode: of the task.

    Returns:
        `(rows, ...)` targets, zeros where there is none (None: no row has one), and by row number what
        is wrong with the label. Rows that are bad already are left alone.
    """
    table = split.table
    bad: dict[int, BadRow] = {}
    encoded: dict[int, Tensor] = {}
    for position, (row, label) in enumerate(zip(split.rows.tolist(), table.labels(split.rows), strict=True)):
        if row in table.bad:
            continue
        try:
            encoded[position] = torch.as_tensor(encode(label))
        except ValueError as error:
            bad[row] = BadRow(row, table.id(row), ", ".join(names_of(table.columns.label)), str(error))
    if not encoded:
        return None, bad
    like = next(iter(encoded.values()))
    targets = torch.zeros((len(split), *like.shape), dtype=like.dtype)
    targets[list(encoded)] = torch.stack(list(encoded.values()))
    return targets, bad
