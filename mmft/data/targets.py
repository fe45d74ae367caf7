"""Encodes the labels of a split once, before training: targets for good rows, reasons for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from mmft.batch import BadRow
from mmft.config.schema.data import names_of
from mmft.config.schema.task import TaskConfig
from mmft.data.splits import Split


class Encodes(Protocol):
    """What is asked of a task here."""

    facts: ClassVar[type[TaskConfig]]
    candidates: int

    def encode(self, label: Any) -> Any:
        """A label, or a `Pair` if the task needs both modalities, as a target."""


class Encode(NamedTuple):
    """How a row's target is made.

    Attributes:
        function: a task's `encode`: gives what `torch.as_tensor` takes; raises `ValueError(reason)`.
        takes_pair: it takes a `Pair` instead of a label.
        candidates: of how many other rows' texts training rows come with; evaluation rows come with one, if any do.
        identities: what image and text are known by is wanted beside the target.
    """

    function: Callable[[Any], Any]
    takes_pair: bool = False
    candidates: int = 0
    identities: bool = False

    @classmethod
    def of(cls, task: Encodes, identities: bool = False) -> Encode:
        """The task's."""
        return cls(task.encode, task.facts.needs_both, task.candidates, identities)


ClassesOf = Callable[[Tensor], Tensor | None]
"""A task's `classes(targets)`: (R, ...) targets -> (R,) int64 classes; None: the task has none."""


def identities_of(split: Split) -> Tensor:
    """(rows, 3) int64 `Pair.identity` by position."""
    return torch.tensor([pair.identity() for pair in split.table.pairs(split.rows)], dtype=torch.int64).view(-1, 3)


def encode_targets(split: Split, encode: Encode) -> tuple[Tensor | None, dict[int, BadRow]]:
    """Targets by position.

    Args:
        split: the rows.
        encode: the task's.

    Returns:
        `(rows, ...)` targets, zeros where there is none (None: no row has one), and by row number what
        is wrong with the label. Rows that are bad already are left alone.
    """
    table = split.table
    bad: dict[int, BadRow] = {}
    encoded: dict[int, Tensor] = {}
    given = table.pairs(split.rows) if encode.takes_pair else table.labels(split.rows)
    for position, (row, label) in enumerate(zip(split.rows.tolist(), given, strict=True)):
        if row in table.bad:
            continue
        try:
            encoded[position] = torch.as_tensor(encode.function(label))
        except ValueError as error:
            column = "" if encode.takes_pair else ", ".join(names_of(table.columns.label))
            bad[row] = BadRow(row, table.id(row), column, str(error))
    if not encoded:
        return None, bad
    like = next(iter(encoded.values()))
    targets = torch.zeros((len(split), *like.shape), dtype=like.dtype)
    targets[list(encoded)] = torch.stack(list(encoded.values()))
    return targets, bad
