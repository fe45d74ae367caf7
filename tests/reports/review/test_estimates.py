"""Samples, estimates and their intervals, and measures of agreement, against scikit-learn and published examples."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from mmft.reports.review.agreement import cohens_kappa, krippendorffs_alpha, raw_agreement
from mmft.reports.review.estimates import Stratum, estimate, wilson
from mmft.reports.review.sampling import draw


def test_a_sample_has_equally_many_of_each_kind_as_far_as_there_are() -> None:
    strata = [True] * 400 + [False] * 30 + [None] * 200
    drawn = draw(strata, seed=0, most=120)
    assert Counter(strata[one.at] for one in drawn) == {False: 30, True: 45, None: 45}
    assert {(strata[one.at], one.weight) for one in drawn} == {(False, 1.0), (True, 400 / 45), (None, 200 / 45)}
    assert len({one.at for one in drawn}) == 120
    assert drawn == draw(strata, seed=0, most=120) != draw(strata, seed=1, most=120)
    assert [strata[one.at] for one in drawn[:40]].count(False) < 30  # kinds are mixed
    assert [one.weight for one in draw([True, False], 0)] == [1.0, 1.0]
    assert draw([], 0) == []


def test_one_stratum_has_wilsons_interval() -> None:
    low, high = wilson(0.8, 50)  # the example of R's binom package: binom.wilson(40, 50)
    assert low == pytest.approx(0.66964, abs=1e-4)
    assert high == pytest.approx(0.88757, abs=1e-4)
    found = estimate([Stratum(10**9, [1.0] * 40 + [0.0] * 10, [1.0] * 50)])
    assert found is not None
    assert found == pytest.approx((0.8, low, high, 50), abs=1e-6)


def test_all_rows_are_no_estimate() -> None:
    found = estimate([Stratum(4, [1.0, 1.0, 0.0, 1.0], [1.0] * 4), Stratum(1, [0.0], [1.0])])
    assert found == pytest.approx((0.6, 0.6, 0.6, 5))


def test_unequal_weights_count_and_widen_the_interval() -> None:
    equal = estimate([Stratum(1000, [1.0, 0.0] * 20, [2.0] * 40)])
    skewed = estimate([Stratum(1000, [1.0, 0.0] * 20, [3.0, 1.0] * 20)])
    assert equal is not None
    assert skewed is not None
    assert (equal.share, skewed.share) == pytest.approx((0.5, 0.75))
    assert skewed.high - skewed.low > 0.9 * (equal.high - equal.low)


def test_a_kind_without_marks_has_no_estimate() -> None:
    assert estimate([Stratum(10, [1.0], [1.0]), Stratum(3, [], [])]) is None
    assert estimate([]) is None


def test_intervals_hold_the_truth_as_often_as_they_should() -> None:
    """4,000 rows, 9 of 10 right by the label; people say otherwise of 3 % of these and of a third of the mistakes."""
    generator = np.random.default_rng(0)
    by_label = np.arange(4_000) < 3_600
    by_people = np.where(by_label, np.arange(4_000) % 100 >= 3, np.arange(4_000) % 3 == 0)
    truth, inside, shares = by_people.mean(), 0, []
    for _ in range(400):
        drawn = draw(by_label.tolist(), int(generator.integers(1 << 30)), 120)
        strata = []
        for kind in (True, False):
            own = [one for one in drawn if by_label[one.at] == kind]
            values = [float(by_people[one.at]) for one in own]
            strata.append(Stratum(int((by_label == kind).sum()), values, [one.weight for one in own]))
        found = estimate(strata)
        assert found is not None
        inside += found.low <= truth <= found.high
        shares.append(found.share)
    assert np.mean(shares) == pytest.approx(truth, abs=0.004)  # the marked rows themselves have 0.65
    assert 0.92 <= inside / 400 <= 0.995


def test_kappa_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    marks = np.array(["right", "wrong", "unsure"])
    one = marks[generator.integers(0, 3, 200)]
    other = np.where(generator.random(200) < 0.6, one, marks[generator.integers(0, 3, 200)])
    pairs = list(zip(one.tolist(), other.tolist(), strict=True))
    assert cohens_kappa(pairs) == pytest.approx(cohen_kappa_score(one, other))
    assert raw_agreement(pairs) == pytest.approx((one == other).mean())


def test_alpha_of_krippendorffs_own_example() -> None:
    """Krippendorff 2011, Computing Krippendorff's alpha-reliability, section C: nominal data, four observers, 0.743."""
    table = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    columns = zip(*(line.split() for line in table), strict=True)
    units = [[mark for mark in column if mark != "."] for column in columns]
    assert krippendorffs_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_nothing_to_compare() -> None:
    assert raw_agreement([["right"], []]) is None
    assert cohens_kappa([]) is None
    assert cohens_kappa([("right", "right")] * 3) is None
    assert krippendorffs_alpha([["right"], ["wrong"]]) is None
    assert krippendorffs_alpha([["right", "right"]]) is None
    assert krippendorffs_alpha([["right", "right"], ["wrong", "wrong"]]) == 1
