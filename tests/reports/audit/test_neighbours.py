"""Nearest neighbours block by block are those of the whole matrix, and whitening keeps near copies together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmft.reports.audit import neighbours
from mmft.reports.audit.neighbours import nearest, whitened


def unit(rows: int, width: int = 8, seed: int = 0) -> Tensor:
    return functional.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", 5)


@pytest.mark.parametrize("among", ["all", "others", "earlier"])
@pytest.mark.parametrize("rows", [1, 4, 33])
def test_as_by_the_whole_matrix(among: str, rows: int) -> None:
    vectors = unit(rows)
    every = vectors @ vectors.T
    if among == "others":
        every.fill_diagonal_(-torch.inf)
    elif among == "earlier":
        every = every.tril(-1) + torch.full_like(every, -torch.inf).triu()
    found = nearest(vectors, vectors, 6, among=among)  # type: ignore[arg-type]
    count = min(6, rows)
    values, at = every.topk(count, dim=1)
    torch.testing.assert_close(found.cosine[:, :count], values)
    assert torch.equal(found.at[:, :count], torch.where(values.isneginf(), -1, at))
    assert (found.at[:, count:] == -1).all()


def test_what_is_too_far_is_no_neighbour() -> None:
    queries, rows = unit(20), unit(30, seed=1)
    every, found = queries @ rows.T, nearest(queries, rows, 30, least=0.3)
    assert 0 < int((every >= 0.3).sum()) < every.numel()
    assert int((found.at >= 0).sum()) == int((every >= 0.3).sum())
    assert found.cosine[found.at >= 0].min() >= 0.3
    assert found.cosine[found.at < 0].isneginf().all()


def test_whitening_tells_rows_apart_that_share_a_direction() -> None:
    features = unit(60) + 20 * unit(1, seed=1)
    features[1] = features[0] + 0.05 * unit(1, seed=2)
    plain, white = functional.normalize(features, dim=1), whitened(features)
    torch.testing.assert_close(white.norm(dim=1), torch.ones(60))
    others = ~torch.eye(60, dtype=torch.bool)
    others[0, 1] = others[1, 0] = False
    assert (plain @ plain.T)[others].min() > 0.95
    assert (white @ white.T)[others].max() < 0.95
    assert white[0] @ white[1] > 0.95


def test_whitening_of_hardly_any_rows() -> None:
    assert whitened(torch.ones(1, 4)).isfinite().all()
    assert whitened(torch.ones(3, 4)).isfinite().all()
    assert whitened(unit(2)).isfinite().all()
