"""Shares of variance that the keys of a sweep explain."""

from __future__ import annotations

import numpy as np
import pytest

from mmft.run.listing.importances import explained


def test_it_is_adjusted_r_squared() -> None:
    """Three levels: of a sum of squares of 5.5, 1.5 are within them; 1 - (1.5 / 3) / (5.5 / 5)."""
    assert explained(list("aabbcc"), [0.0, 1.0, 1.0, 2.0, 2.0, 3.0]) == pytest.approx(1 - 0.5 / 1.1)


def test_a_key_with_an_effect_stands_out_of_one_without() -> None:
    generator = np.random.default_rng(0)
    rates = [str(10**power) for power in generator.uniform(-5, -2, 40)]  # sampled: none occurs twice
    seeds = [str(seed) for seed in generator.integers(0, 4, 40)]
    values = [-((np.log10(float(rate)) + 3.5) ** 2) + 0.2 * generator.normal() for rate in rates]
    assert (explained(rates, values) or 0) > 0.6
    assert (explained(seeds, values) or 0) < 0.2
    assert explained(rates, generator.normal(size=40).tolist()) == pytest.approx(0, abs=0.25)


def test_nothing_to_explain() -> None:
    assert explained(["1", "2", "3"], [1.0, 2.0, 3.0]) is None
    assert explained(["1"] * 4, [1.0, 2.0, 3.0, 4.0]) is None
    assert explained(["1", "1", "2", "2"], [1.0] * 4) is None
    assert explained(["a", "b", "c", "d"], [1.0, 2.0, 3.0, 4.0]) is None
    assert explained(["a", "a", "b", "b"], [1.0, 1.0, 2.0, 2.0]) == 1
