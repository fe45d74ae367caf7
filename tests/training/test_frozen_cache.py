"""Pooled features of rows: read from the store where it has them, computed where it lacks them, alike in both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from built import built

from mmft import build


def _features(shapes_overrides: list[str], store: Path, *typed: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    typed = (*shapes_overrides, f"paths.cache={store}", "trainer.precision=32-true", *typed)
    config, model, data = built(typed)
    rows = data.datasets["train"]
    found = build.EncoderFeatures(config, model).of(rows)
    assert rows.stored == {}
    return {name: tuple(one) for name, one in found.items()}


@pytest.mark.parametrize("keep", ["always", "auto"])
def test_features_are_the_same_from_the_store(shapes_overrides: list[str], tmp_path: Path, keep: str) -> None:
    never = _features(shapes_overrides, tmp_path / "none", "cache=never")
    filled = _features(shapes_overrides, tmp_path / "store", f"cache={keep}")
    read = _features(shapes_overrides, tmp_path / "store", f"cache={keep}")
    assert not (tmp_path / "none").exists()
    assert len(list((tmp_path / "store").glob("*/*.shard"))) == 2
    for name in ("image", "text"):
        assert never[name][1].all()
        assert len(never[name][0]) > 10
        assert never[name][0].std(0).min() > 0
        for other in (filled, read):
            assert torch.equal(never[name][0], other[name][0])
            assert torch.equal(never[name][1], other[name][1])
