"""The threshold that a measure likes best, against all thresholds tried one by one with scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from mmft.tasks.thresholds import MEASURES, best_threshold, counts_above

BY_SKLEARN: dict[str, Any] = {
    "f1": lambda y, p: sk.f1_score(y, p, zero_division=0),
    "f1_macro": lambda y, p: sk.f1_score(y, p, average="macro", zero_division=0),
    "balanced_accuracy": sk.balanced_accuracy_score,
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("seed", range(4))
def test_none_is_better(name: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    there = generator.random(60) < 0.2
    scores = generator.normal(0.3 + 0.2 * there, 0.2).round(1 if seed % 2 else 6).clip(0.01, 0.99)  # many equal
    best = best_threshold(torch.tensor(scores), torch.tensor(there), MEASURES[name])
    tried = [BY_SKLEARN[name](there, scores > t) for t in np.unique(np.concatenate([scores, scores - 1e-9, [0.5]]))]
    assert best.after == pytest.approx(max(tried), abs=1e-12)
    assert best.after == pytest.approx(BY_SKLEARN[name](there, scores > best.threshold), abs=1e-12)
    assert best.before == pytest.approx(BY_SKLEARN[name](there, scores > 0.5), abs=1e-12)
    assert best.threshold == 0.5 or not (scores == best.threshold).any()


def test_what_is_as_good_already_stays() -> None:
    best = best_threshold(torch.tensor([0.1, 0.9]).double(), torch.tensor([False, True]), MEASURES["f1"])
    assert best == (0.5, 1.0, 1.0)


def test_all_of_them_are_found() -> None:
    best = best_threshold(torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([True, True]), MEASURES["f1"])
    assert (best.threshold, best.before, best.after) == (0.05, 0.0, 1.0)


def test_a_saturated_probability_is_not_above_one() -> None:
    ones = torch.ones(3, dtype=torch.float64)
    best = best_threshold(ones, torch.tensor([False, False, False]), MEASURES["balanced_accuracy"])
    assert counts_above(ones, torch.zeros(3, dtype=torch.bool), best.threshold).false_positives == 0
