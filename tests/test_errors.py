"""Errors that are said in the user's words."""

from __future__ import annotations

import pytest

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
