"""Layers of bitsandbytes; what they compute is tested with the methods that take them."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmft.tuning.quantize import quantize


@pytest.mark.parametrize("bits", [8, 4])
def test_nothing_is_said_for_every_layer_and_batch(
    bits: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("bitsandbytes"), "level", logging.NOTSET)  # as in Python, without a command
    logging.getLogger("bitsandbytes").manager._clear_cache()  # type: ignore[attr-defined]
    tower: Any = SimpleNamespace(backbone=nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)))
    assert quantize(tower, bits) == 2
    for _ in range(2):
        tower.backbone(torch.ones(3, 64))
    assert [record.getMessage() for record in caplog.records if record.levelno < logging.ERROR] == []
