"""Encodes the labels of a split once, before training: targets for usable rows, reasons for the others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from mmft.batch import BadRow
from mmft.config.schema.task import TaskConfig
from mmft.data.captions import CaptionsOf
from mmft.data.splitting.splits import Split
from mmft.tasks.generative import GenerativeTask

log = logging.getLogger(__name__)
_SHOWN = 5


class Encodes(Protocol):
    """The part of a task used here."""

    facts: ClassVar[type[TaskConfig]]
    candidates: int

    @property
    def captions_of(self) -> CaptionsOf | None:
        """A label's captions, which take the place of texts; None if the table has them."""

    def encode(self, label: Any) -> Any:
        """Converts a label, or a `Pair` if the task needs both modalities, to a target."""

    def encode_evaluated(self, label: Any, unseen: list[str]) -> Any:
        """As `encode`, for an evaluated row; labels that no training row has are appended to `unseen`."""


class Encode(NamedTuple):
    """How a row's target is computed.

    Attributes:
        function: a task's `encode`; returns input for `torch.as_tensor` or raises `ValueError(reason)`.
        takes_pair: whether it takes a `Pair` instead of a label.
        candidates: number of candidate texts of a training row; if not 0, evaluation rows have one.
        identities: whether identities of image and text are needed beside the target.
        evaluated: a task's `encode_evaluated`, used instead of `function` for evaluated rows.
        unseen_labels: see `TaskConfig`.
        captions_of: of a label; None if texts are the table's.
        padded: targets are sequences with -1 behind them, of which a batch has as many as its longest needs.
        references_of: a label's reference answers, which evaluated rows keep; None if metrics compare no texts.
        drawn: a label's targets, of which a training row gets one in each epoch; None if it has one.
    """

    function: Callable[[Any], Any]
    takes_pair: bool = False
    candidates: int = 0
    identities: bool = False
    evaluated: Callable[[Any, list[str]], Any] | None = None
    captions_of: CaptionsOf | None = None
    padded: bool = False
    references_of: Callable[[Any], Sequence[str]] | None = None
    drawn: Callable[[Any], Sequence[Any]] | None = None
    unseen_labels: str = TaskConfig.unseen_labels

    @classmethod
    def of(cls, task: Encodes, identities: bool = False) -> Encode:
        """From a task."""
        made = cls(
            task.encode,
            task.facts.needs_both,
            task.candidates,
            identities,
            task.encode_evaluated,
            task.captions_of,
            task.facts.generates,
            unseen_labels=task.facts.unseen_labels,
        )
        if not isinstance(task, GenerativeTask):
            return made
        return made._replace(references_of=task.references_of, drawn=task.drawn_targets)


ClassesOf = Callable[[Tensor], Tensor | None]
"""A task's `classes(targets)`: (R, ...) targets -> (R,) int64 classes, or None for a task without classes."""


def identities_of(split: Split) -> Tensor:
    """(rows, 3) int64 `Pair.identity` by position."""
    return torch.tensor([pair.identity() for pair in split.table.pairs(split.rows)], dtype=torch.int64).view(-1, 3)


def encode_targets(split: Split, encode: Encode, *, evaluated: bool = False) -> tuple[Tensor | None, dict[int, BadRow]]:
    """Targets by position.

    Args:
        split: the rows.
        encode: the task's.
        evaluated: the rows are not trained on: labels that no training row has are mistakes, and reported.

    Returns:
        Targets (rows, ...), zeros for rows without one, or None if no row has one; and the rows with unusable labels,
        by row number. Rows that are already bad are skipped.
    """
    table = split.table
    bad: dict[int, BadRow] = {}
    encoded: dict[int, Tensor] = {}
    unseen: list[str] = []

    def target(label: Any) -> Tensor:
        if evaluated and encode.evaluated is not None:
            return torch.as_tensor(encode.evaluated(label, unseen))
        return torch.as_tensor(encode.function(label))

    given = table.pairs(split.rows) if encode.takes_pair else table.labels(split.rows)
    for position, (row, label) in enumerate(zip(split.rows.tolist(), given, strict=True)):
        if row in table.bad:
            continue
        try:
            encoded[position] = target(label)
        except ValueError as error:
            column = "" if encode.takes_pair else ", ".join(table.columns.answers)
            bad[row] = table.bad_row(row, column, str(error))
    if unseen:
        _report_unseen(unseen, len(split), table.where, encode.unseen_labels)
    if not encoded:
        return None, bad
    like = next(iter(encoded.values()))
    targets = torch.zeros((len(split), *like.shape), dtype=like.dtype)
    targets[list(encoded)] = torch.stack(list(encoded.values()))
    return targets, bad


def _report_unseen(names: list[str], rows: int, where: str, meaning: str) -> None:
    counts = Counter(names).most_common()
    shown = ", ".join(f"{name} ({count:,})" for name, count in counts[:_SHOWN])
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    log.warning(
        "%d of %d evaluated rows of %s have labels that the model was not given: %s%s. %s",
        *(len(names), rows, where, shown, more, meaning),
    )
