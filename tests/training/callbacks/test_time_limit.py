"""`trainer.max_time` ends training and finishes the model; `checkpoint.every_minutes` saves by the clock."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from runs import TrainRun

from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.training.callbacks.checkpointing import Checkpointing
from mmft.training.callbacks.time_limit import time_limit
from mmft.training.module import FineTuning
from mmft.training.parallel.agreement import Agreement


@pytest.mark.parametrize(("given", "seconds"), [("00:00:30", 30), ("1:30:00", 5400), ("02:03:04:05", 183845)])
def test_times(given: str, seconds: int) -> None:
    assert time_limit(given)[0].seconds == seconds


def test_what_is_no_time(shapes_overrides: list[str]) -> None:
    assert time_limit(None) == []
    with pytest.raises(UserError, match="HH:MM:SS"):
        compose("train", [*shapes_overrides, "trainer.max_time=2h"])


def test_training_ends_and_the_model_is_finished(train_run: TrainRun) -> None:
    run = train_run("trainer.max_time=00:00:00", "trainer.max_epochs=5")
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["status"], summary["optimizer_steps"], summary["stopped_early"]) == ("completed", 1, True)
    assert (run.path / "model" / "model.safetensors").is_file()
    assert "accuracy" in summary["test"]


def test_the_clock_saves_inside_an_epoch(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    plain = Checkpointing.save_last
    monkeypatch.setattr(Checkpointing, "save_last", lambda self, t: (saved.append(t.global_step), plain(self, t)))
    train_run("checkpoint.every_minutes=1e-9", "trainer.max_epochs=1")
    assert saved == [1, 2, 3]


def test_several_ranks_save_once_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rank wishes is agreed on with the next step; the step that saves wishes nothing."""
    from mmft.training.callbacks import checkpointing

    now = [0.0]
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now[0])
    agreement = Agreement(alone=False)
    module: Any = Mock(spec=FineTuning, agreement=agreement)
    callback: Any = Mock(spec=Checkpointing, every_minutes=1.0, every_steps=None, _saved=0.0)
    callback.validates.return_value = False
    saved: list[int] = []
    for step in range(12):
        now[0] += 20.0
        agreement.settle(agreement.as_tensor(torch.zeros(())).tolist())
        trainer: Any = Mock(global_step=step, is_last_batch=False)
        callback.save_last.side_effect = lambda _, step=step: (saved.append(step), setattr(callback, "_saved", now[0]))
        Checkpointing.on_train_batch_end(callback, trainer, module)
    assert saved == [4, 9]
