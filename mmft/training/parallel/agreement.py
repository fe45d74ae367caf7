"""Makes all ranks stop, save or end at the same optimizer step.

One rank receives a signal, or one clock runs out first; if that rank acted alone, the others would wait for it forever.
A request therefore travels with the collective that every step has anyway, and takes effect when that step is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Wish = Literal["interrupt", "terminate", "save", "end"]
WISHES: tuple[Wish, ...] = get_args(Wish)


class Agreement:
    """This rank's requests, and those that all ranks have agreed on.

    Args:
        alone: whether there is one rank; its requests are agreed on at once.
    """

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self._wished: set[Wish] = set()
        self._agreed: set[Wish] = set()

    def wish(self, wish: Wish) -> None:
        """Requests it from all ranks, from the next step until it is agreed on."""
        (self._agreed if self.alone else self._wished).add(wish)

    def take(self, wish: Wish) -> bool:
        """Whether it was agreed on since the last call; the answer is the same on every rank."""
        agreed = wish in self._agreed
        self._agreed.discard(wish)
        return agreed

    def as_tensor(self, like: Tensor) -> Tensor:
        """(W,) this rank's requests, to be summed over ranks, with dtype and device of `like`."""
        return torch.tensor([wish in self._wished for wish in WISHES], dtype=like.dtype, device=like.device)

    def settle(self, counts: Sequence[float]) -> None:
        """Records how many ranks requested what in a finished step; a rank alone needs no counts."""
        settled = {wish for wish, count in zip(WISHES, counts, strict=not self.alone) if count}
        self._agreed |= settled
        self._wished -= settled
