"""`trainer.max_time` ends training and finishes the model; `checkpoint.every_minutes` saves by the clock."""

from __future__ import annotations

import json

import pytest
from runs import TrainRun

from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.training.callbacks.time_limit import time_limit


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
    from mmft.training.callbacks.checkpointing import Checkpointing

    saved: list[int] = []
    plain = Checkpointing.save_last
    monkeypatch.setattr(Checkpointing, "save_last", lambda self, t: (saved.append(t.global_step), plain(self, t)))
    train_run("checkpoint.every_minutes=1e-9", "trainer.max_epochs=1")
    assert saved == [1, 2, 3]
