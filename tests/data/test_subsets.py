"""Methods of choosing rows by their features: what each promises, on features made here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmft.data.subsets import (
    METHODS,
    Draws,
    choose,
    covering_radius,
    facility_location,
    herding,
    joined,
    k_center,
    shares,
)

COUNT = 12


@pytest.fixture
def features() -> Tensor:
    """Forty rows around each of six centres, and ten rows far away from all."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 16, generator=generator).repeat_interleave(40, 0)
    far = 6 * torch.randn(10, 16, generator=generator)
    return torch.cat([centres + 0.3 * torch.randn(240, 16, generator=generator), far])


@pytest.fixture
def draws(features: Tensor) -> Draws:
    return np.random.default_rng(0).random(len(features))


def random_choices(rows: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).permutation(rows)[:COUNT] for seed in range(20)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, COUNT, 249, 250])
def test_different_rows_are_chosen(method: str, count: int, features: Tensor, draws: Draws) -> None:
    chosen = choose(method, features, np.zeros(250, dtype=np.int64), count, draws)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == count
    assert chosen.max() < 250
    assert chosen.tolist() == choose(method, features, np.zeros(250, dtype=np.int64), count, draws).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_equal_rows_are_no_trap(method: str) -> None:
    features, draws = torch.ones(9, 4), np.random.default_rng(0).random(9)
    assert choose(method, features, np.zeros(9, dtype=np.int64), 9, draws).tolist() == list(range(9))


def test_k_center_leaves_no_row_far_away(features: Tensor, draws: Draws) -> None:
    alike = np.zeros(250, dtype=np.int64)
    radius = covering_radius(features, alike, k_center(features, COUNT, draws))
    assert radius < 0.5 * min(covering_radius(features, alike, chosen) for chosen in random_choices(250))
    expected = torch.cdist(features, features[torch.from_numpy(k_center(features, COUNT, draws))]).amin(1).max()
    assert radius == pytest.approx(float(expected), rel=1e-4)


def test_k_center_begins_anywhere_and_goes_on_with_the_farthest(features: Tensor, draws: Draws) -> None:
    chosen = k_center(features, 4, draws)
    assert chosen[0] == draws.argmin()
    for known in range(1, 4):
        nearest = torch.cdist(features, features[torch.from_numpy(chosen[:known])]).amin(1)
        assert nearest[chosen[known]] == pytest.approx(float(nearest.max()), rel=1e-4)


def test_herding_keeps_the_mean(features: Tensor, draws: Draws) -> None:
    def error(chosen: np.ndarray) -> float:
        return float((features[torch.from_numpy(chosen)].mean(0) - features.mean(0)).norm())

    assert error(herding(features, COUNT, draws)) < 0.5 * min(map(error, random_choices(250)))


def test_coreset_covers_rows_on_average(features: Tensor, draws: Draws) -> None:
    def cost(chosen: np.ndarray) -> float:
        return float(torch.cdist(features, features[torch.from_numpy(chosen)]).amin(1).square().mean())

    assert cost(facility_location(features, COUNT, draws)) < 0.7 * min(map(cost, random_choices(250)))
    assert cost(facility_location(features, 1, draws)) == pytest.approx(
        min(cost(np.array([row])) for row in range(250))
    )


def test_coreset_of_more_rows_than_are_compared_at_once(monkeypatch: pytest.MonkeyPatch, draws: Draws) -> None:
    monkeypatch.setattr("mmft.data.subsets._COVERED", 100)
    monkeypatch.setattr("mmft.data.subsets._CANDIDATES", 25)
    features = torch.randn(250, 16, generator=torch.Generator().manual_seed(1))

    def cost(chosen: np.ndarray) -> float:
        return float(torch.cdist(features, features[torch.from_numpy(chosen)]).amin(1).square().mean())

    chosen = facility_location(features, 240, draws)
    assert len(set(chosen.tolist())) == 240
    assert cost(chosen[:COUNT]) < np.mean([cost(one) for one in random_choices(250)])


def test_shares_are_proportional_and_no_class_goes_without() -> None:
    classes = np.repeat([0, 3, 5], [700, 299, 1])
    assert shares(classes, 100) == {0: 69, 3: 30, 5: 1}
    assert shares(classes, 3) == {0: 1, 3: 1, 5: 1}
    assert shares(classes, 1000) == {0: 700, 3: 299, 5: 1}


def test_rows_are_chosen_in_every_class(features: Tensor, draws: Draws) -> None:
    classes = np.arange(250) % 3
    chosen = choose("k_center", features, classes, COUNT, draws)
    assert np.bincount(classes[chosen]).tolist() == [4, 4, 4]
    own = choose("k_center", features[classes == 1], np.zeros(83, dtype=np.int64), 4, draws[classes == 1])
    assert np.flatnonzero(classes == 1)[own].tolist() == chosen[classes[chosen] == 1].tolist()


def test_modalities_weigh_alike_and_what_is_missing_is_zeros() -> None:
    image, text = 1000 * torch.rand(6, 4) + 5000, torch.rand(6, 3)
    there = torch.tensor([True, True, False, True, True, True])
    found = joined([(image, there), (text, torch.ones(6, dtype=torch.bool))])
    assert found.shape == (6, 7)
    assert found[:, :4].norm(dim=1).tolist() == pytest.approx([1, 1, 0, 1, 1, 1])
    assert found[:, 4:].norm(dim=1).tolist() == pytest.approx([1] * 6)
    again = joined([(image.where(there[:, None], torch.tensor(9e9)), there), (text, there | True)])
    assert torch.equal(again, found)  # what is not there has no influence
