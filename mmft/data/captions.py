"""Captions: the texts of rows that have a label and no text, one for each template of a prompt.

Fine-tuning on them with the loss of pretraining is FLYP (Goyal et al. 2023, arXiv 2212.00638).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmft.data.text import tokenize

CaptionsOf = Callable[[Any], Sequence[str]]
"""A task's captions of a label: as many for every label, the first for evaluation."""


class Captions:
    """Tokens of every caption of every row. Rows of one label share them.

    Args:
        labels: the rows'; None for a row without a label, which has no caption.
        captions_of: of a label.
        tokenizer: a tokenizer of transformers.
        max_length: maximum number of tokens per caption.
    """

    def __init__(self, labels: Sequence[Any], captions_of: CaptionsOf, tokenizer: Any, max_length: int) -> None:
        numbers: dict[tuple[str, ...], int] = {}
        found = [None if label is None else tuple(captions_of(label)) for label in labels]
        own = [-1 if texts is None else numbers.setdefault(texts, len(numbers)) for texts in found]
        self._number = np.array(own, dtype=np.int64)  # (rows,) which captions, -1 for none
        self._count = len(next(iter(numbers), ()))
        self._tokens = tokenize(list(chain.from_iterable(numbers)), tokenizer, max_length)

    def drawn(self, position: int, seed: int) -> Tensor | None:
        """(L,) int64 tokens of one of the row's captions, a pure function of `seed`; None for a row without."""
        number = int(self._number[position])
        if number < 0:
            return None
        return torch.from_numpy(self._tokens.of(number * self._count + seed % self._count).astype(np.int64))


def first_captions(labels: Sequence[Any], captions_of: CaptionsOf) -> list[str | None]:
    """The rows' texts in an evaluation: each label's first caption; None without a label."""
    return [None if label is None else captions_of(label)[0] for label in labels]
