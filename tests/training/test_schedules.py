"""Schedules are pure functions of the optimizer step."""

from __future__ import annotations

import math

import pytest

from mmft.errors import UserError
from mmft.training.schedules import Constant, Cosine, Linear, Schedule, WarmupStableDecay

TOTAL = 100


@pytest.mark.parametrize(
    "schedule", [Constant(0.1), Cosine(0.1, 0.0), Linear(0.1, 0.2), WarmupStableDecay(0.1, 0.2, 0.0)]
)
def test_all_warm_up_in_a_straight_line_to_the_full_rate(schedule: Schedule) -> None:
    assert [schedule.factor(step, TOTAL) for step in range(10)] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert schedule.factor(10, TOTAL) == pytest.approx(1.0)


def test_a_whole_warm_up_is_a_number_of_steps() -> None:
    assert Constant(4).factor(1, TOTAL) == 0.5
    assert Constant(0).factor(0, TOTAL) == 1.0


def test_shapes_at_half_way_and_at_the_end() -> None:
    assert Cosine(0, 0.0).factor(50, TOTAL) == pytest.approx(0.5)
    assert Cosine(0, 0.1).factor(99, TOTAL) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.99)))
    assert Linear(0, 0.5).factor(50, TOTAL) == pytest.approx(0.75)
    stable = WarmupStableDecay(0, 0.2, 0.0)
    assert [stable.factor(step, TOTAL) for step in (0, 79, 90)] == pytest.approx([1, 1, 0.5])


def test_a_warm_up_longer_than_training_is_an_error_not_cut() -> None:
    with pytest.raises(UserError, match=r"schedule.warmup=200.*only 100 optimizer steps"):
        Constant(200).warmup_steps(TOTAL)
