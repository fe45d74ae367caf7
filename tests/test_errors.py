"""Errors that are said in the user's words."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from mmft.errors import TrainingError, dead_workers

DEAD = "DataLoader worker (pid 7) is killed by signal: Killed. "


def lose_a_worker() -> None:
    try:
        raise RuntimeError(DEAD)
    finally:
        raise RuntimeError("Please call `iter(combined_loader)` first.")


def test_a_dead_worker_is_told_even_where_cleaning_up_fails_too() -> None:
    with pytest.raises(TrainingError, match="killed by signal.*data.num_workers"), dead_workers():
        lose_a_worker()


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="something else"), dead_workers():
        raise RuntimeError("something else")


class Rows(Dataset[int]):
    """Two numbers; `broken` makes the worker's own code fail."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 2

    def __getitem__(self, position: int) -> int:
        if self.broken:
            raise EOFError("of the data set")
        return position


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the live worker is killed, too
def test_a_worker_that_is_gone_before_torch_sees_it_is_told() -> None:
    batches = iter(DataLoader(Rows(), num_workers=1))

    def cut_off(**_: object) -> None:
        raise EOFError  # raised by the socket of a worker that was killed while sending a batch

    batches._data_queue.get = cut_off  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match=r"sending a batch \(EOFError\).*data.num_workers"), dead_workers():
        next(batches)


def test_an_error_in_a_worker_is_its_own() -> None:
    batches: Any = iter(DataLoader(Rows(broken=True), num_workers=1))
    with pytest.raises(EOFError, match="of the data set"), dead_workers():
        next(batches)
    batches._shutdown_workers()
