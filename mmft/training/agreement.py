"""What all ranks do at the same optimizer step: stop, save, end.

One rank hears a signal, one clock runs out first; if each acted on its own, the others would wait for it for ever.
A wish travels with the collective that every step has anyway, and is known when that step is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Wish = Literal["interrupt", "terminate", "save", "end"]
WISHES: tuple[Wish, ...] = get_args(Wish)


class Agreement:
    """This rank's wishes, and what all ranks have agreed on.

    Args:
        alone: there is one rank; its wishes are agreed on at once.
    """

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self._wished: set[Wish] = set()
        self._agreed: set[Wish] = set()

    def wish(self, wish: Wish) -> None:
        """Asks all ranks for it, from the next step on until it is agreed."""
        (self._agreed if self.alone else self._wished).add(wish)

    def take(self, wish: Wish) -> bool:
        """Whether it has been agreed on since the last time this was asked; the same answer on every rank."""
        agreed = wish in self._agreed
        self._agreed.discard(wish)
        return agreed

    def as_tensor(self, like: Tensor) -> Tensor:
        """(W,) this rank's wishes, to be added up over ranks; dtype and device are those of `like`."""
        return torch.tensor([wish in self._wished for wish in WISHES], dtype=like.dtype, device=like.device)

    def settle(self, counts: Sequence[float]) -> None:
        """Takes over how many ranks wished what in a step that is done."""
        settled = {wish for wish, count in zip(WISHES, counts, strict=True) if count}
        self._agreed |= settled
        self._wished -= settled
