"""Numbers of a page."""

from __future__ import annotations

from typing import Any

import pytest

from mmft.reports.explain.numbers import readable, signed

SIGNED = [
    (0.0, 0.0, "+0.00"),
    (0.604, 0.604, "+0.60"),
    (-2.5, 99.0, "-2.50"),
    (0.00312, 0.0512, "+0.0031"),
    (0.0512, 0.0512, "+0.0512"),
    (-512.3, 512.3, "-512"),
    (12_345.6, 12_345.6, "+12346"),
    (1.2e7, 1.2e7, "+1.2e+07"),
    (1.2e-6, 1.2e-6, "+1.2e-06"),
]


@pytest.mark.parametrize(("value", "largest", "told"), SIGNED)
def test_signed(value: float, largest: float, told: str) -> None:
    assert signed(value, largest) == told


@pytest.mark.parametrize(
    ("prediction", "told"),
    [
        (0.011422719806432724, "0.0114227"),
        ('{"price": 89.74654030538633, "kind": "toy"}', "price 89.7465   kind toy"),
        ("0.123456789", "0.123456789"),  # a label
        ("[1]", "[1]"),
        ("cat", "cat"),
        (None, "None"),
    ],
)
def test_readable(prediction: Any, told: str) -> None:
    assert readable(prediction) == told
